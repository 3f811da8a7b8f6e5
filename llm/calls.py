"""What a model call is, what comes of it, and how it can fail to bring anything.

CallFailure             a call that brought no turn
  OutOfTime             its deadline came before the model had answered
  OutOfMoney            the budget has no room for it
  NoModel               every model of the role failed, or the request is one that none takes
    Throttled           the models would answer, but later than there is time for
  MeterAway             the keeper of budgets did not answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llm.catalogue import Model
from llm.conversation import Block
from svc_common.tokens import TokenUsage


class CallFailure(Exception):
    """See the head of the module. The message is for people; `partial` is the most that a model had said, if anything."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.partial: Turn | None = None


class OutOfTime(CallFailure):
    pass


class OutOfMoney(CallFailure):
    pass


class NoModel(CallFailure):
    pass


class Throttled(NoModel):
    pass


class MeterAway(CallFailure):
    pass


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as one model takes it."""

    arguments: Mapping[str, Any]
    """Arguments of boto3's `converse_stream`."""
    input_bound: int
    """Most tokens its input can have."""
    max_tokens: int
    """Most tokens it may answer with."""
    is_cut: bool
    """Something of the conversation was left out, for want of room."""


class Prepare(Protocol):
    """Makes the request for a model. Both limits narrow what model and task allow. Decides only; does no I/O."""

    def __call__(
        self, model: Model, *, max_input_tokens: int | None = None, max_output_tokens: int | None = None
    ) -> Prepared: ...


@dataclass(frozen=True, slots=True)
class ModelCall:
    """What to ask, of whom, at whose cost, until when. Times are epoch microseconds."""

    instance_id: str
    budget_id: str
    models: Sequence[Model]
    """First choice first."""
    prepare: Prepare
    deadline: int
    """Until when the model must have begun to answer."""
    last_deadline: int
    """Until when it may go on while it says what is for the reader."""
    is_conclusion: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What a model said."""

    model_id: str
    blocks: Sequence[Block]
    stop_reason: str
    partial_tool_text: str = ""
    """Arguments of its result that it was still writing."""

    @property
    def text(self) -> str:
        """What is for the reader: its text, else the unfinished arguments."""
        return "".join(block.get("text", "") for block in self.blocks) or self.partial_tool_text


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a model and what came of it, for tallies and the audit log."""

    charge_id: str
    model_id: str
    arguments: Mapping[str, Any]
    blocks: Sequence[Block]
    outcome: str
    """The stop reason; else the kind of failure in small letters, "out_of_time" or "cancelled"."""
    message: str
    usage: TokenUsage | None
    """None when it is unknown."""
    cost: int
    """Pico-USD; all that was held when the usage is unknown, or nobody waited for its settlement."""
    start_time: int
    end_time: int


class Listener(Protocol):
    """Who hears of a call while it runs. What a try has said is void when another one speaks."""

    async def on_text(self, text: str) -> None: ...

    async def on_warning(self, message: str) -> None: ...

    def on_attempt(self, attempt: Attempt) -> None: ...
