"""What a coordinator needs to go on with a request that another one began."""

from __future__ import annotations

import json
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

    def to_bytes(self) -> bytes:
        conversation = self.conversation.to_json().decode() if self.conversation else None
        return json.dumps({**vars(self), "conversation": conversation}, ensure_ascii=False).encode()

    @staticmethod
    def from_bytes(data: bytes) -> Checkpoint:
        if not data:
            return Checkpoint()
        state = json.loads(data)
        conversation = state.pop("conversation")
        return Checkpoint(Conversation.from_json(conversation.encode()) if conversation else None, **state)
