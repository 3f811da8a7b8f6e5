"""What an LLM instance is given, what it asks of its host, and what it ends with. How it runs is in `llm.runner`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llm.conversation import Conversation
from llm.templates import Template
from svc_common.endings import EndReason
from svc_common.tokens import TokenUsage


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may call. `input_schema` is a JSON schema of type object; invalid arguments never reach the host."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call that the model made, of an offered tool, with valid arguments. `id` is the model's, unique in the conversation."""

    id: str
    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What the model gets back: text, or an object shown as JSON. Either way it is fenced as data."""

    content: Mapping[str, Any] | str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One instance's work."""

    instance_id: str
    """Who speaks, in audit records and charge ids: the job id."""
    request_id: str
    root_id: str
    """Root job, which keeps the audit log."""
    budget_id: str
    role: str
    """Model role: "coordinator", "fast", "expert", or a tool's name; an unknown one is served as "fast"."""
    template: Template
    values: Mapping[str, str]
    """Value of each of the template's placeholders. Untrusted: see `Template.render`."""
    tools: Sequence[ToolSpec]
    deadline: int
    """Epoch microseconds. The instance returns before it and keeps part of the time for its conclusion."""
    max_rounds: int
    """Rounds of tool calls, after which it must conclude. 0: no tools."""
    max_output_tokens: int
    """Most that one model call may write."""
    response_schema: Mapping[str, Any] | None = None
    """JSON schema (type object) of the output; None for free text."""
    caller: str = ""
    """Who asked, for the audit log: the id of the calling instance; empty for a client."""
    priority: int = 0
    """Who goes first among those who wait for held money or a rate: higher."""


class Host(Protocol):
    """What an instance asks of whoever runs it. Its methods are called one at a time."""

    async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
        """Runs calls made in one turn, in parallel, and returns their outcomes in order.

        `round` counts from 1; `thought` is what the model said beside the calls. May take long, but only until the deadline at hand
        (`svc_common.deadline`): then it is cancelled, and what it had is lost. A tool that fails is an outcome with `is_error`, not
        an exception. After a resumption the same calls come again with the same `round` and ids. Each call gets a span by
        `llm.tracing.tool_span`.
        """
        ...

    async def on_text(self, text: str) -> None:
        """Takes the next piece of the free-text answer, as it comes from the model."""
        ...

    async def on_restart(self) -> None:
        """Takes back what `on_text` was given so far: it was a thought before further tool calls, and the answer begins anew."""
        ...

    async def on_turn(self, conversation: Conversation) -> None:
        """Takes the conversation after each model turn and each round of tools, to checkpoint it."""
        ...

    async def on_warning(self, message: str) -> None:
        """Takes, for a human, something that went wrong without ending the instance: a fallback, a retry, a trimmed context."""
        ...


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """How an instance ended. Usage, cost and counts include those of earlier attempts that the conversation was resumed from."""

    text: str
    """The answer; for structured output the raw text of the model when no valid output could be had."""
    output: Mapping[str, Any] | None
    """Structured output, valid by the response schema."""
    is_partial: bool
    reason: EndReason
    message: str
    """For a human: what went wrong; empty when nothing did."""
    missing: Sequence[str]
    """What could not be done and how to get it."""
    usage: TokenUsage
    cost: int
    """Pico-USD, charges of unknown outcome in full."""
    model_ids: Sequence[str]
    rounds: int
    model_calls: int
    is_truncated: bool
    """The output was cut by the model's output limit; its end says so."""
