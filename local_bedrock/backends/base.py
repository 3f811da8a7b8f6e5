"""What the server asks of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from local_bedrock.answers import Answer
from local_bedrock.calls import ModelCall


class Backend(Protocol):
    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Exact tokens of each text; never more than its UTF-8 bytes."""

    async def answer(self, call: ModelCall) -> Answer:
        """Decide the whole answer, within the call's limits. Raises ServiceError; cancelling it frees what it holds."""

    async def close(self) -> None:
        """Free the model and its threads; calls still running are cancelled before."""
