"""What was said so far in one instance, in Converse form. It is the checkpoint: all that a resumed run needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from svc_common.endings import EndReason
from svc_common.tokens import TokenUsage

Block = dict[str, Any]
Message = dict[str, Any]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Tally:
    """What the instance used so far, over all attempts at running it. `cost` is in pico-USD."""

    rounds: int = 0
    model_calls: int = 0
    fruitless_turns: int = 0
    """Turns in a row whose tool calls were all invalid or repeated."""
    repairs: int = 0
    usage: TokenUsage = field(default_factory=TokenUsage)
    cost: int = 0
    model_ids: tuple[str, ...] = ()

    def with_call(self, usage: TokenUsage, cost: int) -> Tally:
        return replace(self, model_calls=self.model_calls + 1, usage=self.usage + usage, cost=self.cost + cost)

    def with_answer(self, model_id: str) -> Tally:
        known = self.model_ids if model_id in self.model_ids else (*self.model_ids, model_id)
        return replace(self, model_ids=known)


@dataclass(frozen=True, slots=True)
class Cut:
    """Why an instance must stop asking. `reason` is NONE when what it has is all it was meant to have."""

    reason: EndReason
    words: str


@dataclass(slots=True)
class Conversation:
    """Messages in the form of the Converse API, roles alternating and starting with "user"."""

    messages: list[Message] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    stop_reason: str = ""
    """Why the model's last turn ended."""
    conclusion: Cut | None = None
    """Why the model was asked to conclude, if it was: it may call tools no more."""

    def add_user(self, blocks: Sequence[Block]) -> None:
        """Adds blocks to the user's turn: a new message, or more of the last one if that is the user's."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": "user", "content": list(blocks)})

    def add_assistant(self, blocks: Sequence[Block]) -> None:
        self.messages.append({"role": "assistant", "content": list(blocks)})

    @property
    def unanswered(self) -> Sequence[Block]:
        """Blocks of the model's last turn if nothing followed it yet, else none."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            blocks: Sequence[Block] = self.messages[-1]["content"]
            return blocks
        return ()

    def to_json(self) -> bytes:
        state = {
            "format": _FORMAT,
            "messages": self.messages,
            "tally": asdict(self.tally),
            "stop_reason": self.stop_reason,
            "conclusion": self.conclusion and [self.conclusion.reason.name, self.conclusion.words],
        }
        return json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Conversation:
        """Raises ValueError for anything but what `to_json` made."""
        try:
            state = json.loads(data)
            if state["format"] != _FORMAT:
                raise ValueError(f"a conversation of format {state['format']} cannot be resumed, only {_FORMAT}")
            tally = state["tally"]
            usage = TokenUsage(**tally.pop("usage"))
            model_ids = tuple(tally.pop("model_ids"))
            conclusion = state["conclusion"] and Cut(EndReason[state["conclusion"][0]], state["conclusion"][1])
            counted = Tally(usage=usage, model_ids=model_ids, **tally)
            return cls(state["messages"], counted, state["stop_reason"], conclusion)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a stored conversation: {error}") from error
