"""What one model call asks for and what it gets, free of any wire format.

Token counts are additive over `ModelCall.segments()`: input tokens are the sum of each segment's own count, so a count
of at most one token per UTF-8 byte stays under the sum of the bytes of all text and tool JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

TEMPLATE_KEY = "template"  # the requestMetadata key under which a caller names the prompt template it used


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call of the model. `input_text` is its JSON as text, which a fault may have made malformed."""

    tool_use_id: str
    name: str
    input_text: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """`text` joins the result's text and JSON parts by newlines."""

    tool_use_id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class CachePoint:
    """Everything before it is to be cached for `ttl_seconds`."""

    ttl_seconds: int


RequestBlock: TypeAlias = Text | ToolUse | ToolResult | CachePoint
OutputBlock: TypeAlias = Text | ToolUse


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["user", "assistant"]
    content: tuple[RequestBlock, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    input_schema: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`auto`: may call; `any`: must call one; `tool`: must call `name`."""

    mode: Literal["auto", "any", "tool"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; `input_tokens` excludes both cache counts, as on Bedrock."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model. `max_tokens` is the caller's, or the endpoint's default where the caller sent none."""

    operation: str
    model_id: str
    system: tuple[Text | CachePoint, ...]
    messages: tuple[Message, ...]
    tools: tuple[Tool | CachePoint, ...]
    tool_choice: ToolChoice
    max_tokens: int
    stop_sequences: tuple[str, ...] = ()
    temperature: float | None = None
    service_tier: str = "default"
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def template(self) -> str:
        """The prompt template the caller named, or an empty string."""
        return self.metadata.get(TEMPLATE_KEY, "")

    @property
    def system_text(self) -> str:
        return "\n".join(block.text for block in self.system if isinstance(block, Text))

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if isinstance(tool, Tool))

    @property
    def last_user_text(self) -> str:
        """Text of the newest user message that has any (one with only tool results has none)."""
        for message in reversed(self.messages):
            text = "\n".join(block.text for block in message.content if isinstance(block, Text))
            if message.role == "user" and text:
                return text
        return ""

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """Results in the last message: those the model is to react to now."""
        return tuple(block for block in self.messages[-1].content if isinstance(block, ToolResult))

    @property
    def all_tool_results(self) -> tuple[ToolResult, ...]:
        return tuple(b for message in self.messages for b in message.content if isinstance(b, ToolResult))

    def segments(self) -> tuple[str | CachePoint, ...]:
        """All that is billed as input, in the order Bedrock caches it: tools, system, messages."""
        segments: list[str | CachePoint] = []
        for tool in self.tools:
            if isinstance(tool, CachePoint):
                segments.append(tool)
            else:
                segments += [tool.name, tool.description, compact_json(dict(tool.input_schema))]
        for block in (*self.system, *(b for message in self.messages for b in message.content)):
            match block:
                case CachePoint():
                    segments.append(block)
                case Text(text) | ToolResult(text=text):
                    segments.append(text)
                case ToolUse(name=name, input_text=input_text):
                    segments += [name, input_text]
        return tuple(segments)


def compact_json(value: Json) -> str:
    """The JSON text that is counted and streamed."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
