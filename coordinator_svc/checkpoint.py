"""What a coordinator needs to go on with a request that another one began."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llm.conversation import Conversation


@dataclass
class Checkpoint:
    """`conversation` is None before the first turn of the model."""

    conversation: Conversation | None = None
    planned_rounds: int = 0
    """Rounds whose plan is in the event log."""
    finished_jobs: int = 0
    """Jobs of the rounds that are over."""
    snapshot_id: str = ""
    template_hash: str = ""

    @property
    def model_ids(self) -> Sequence[str]:
        return self.conversation.tally.model_ids if self.conversation else ()

    def to_bytes(self) -> bytes:
        """Two lines of JSON: the conversation is a document of its own."""
        own = {name: value for name, value in vars(self).items() if name != "conversation"}
        return json.dumps(own).encode() + b"\n" + (self.conversation.to_json() if self.conversation else b"")

    @staticmethod
    def from_bytes(data: bytes) -> Checkpoint:
        if not data:
            return Checkpoint()
        own, _, conversation = data.partition(b"\n")
        return Checkpoint(Conversation.from_json(conversation) if conversation else None, **json.loads(own))
