"""Making the Converse request of a conversation for one model: what it can do decides the form, its window the length."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm.calls import Prepared
from llm.catalogue import Model
from llm.conversation import Block, Message
from llm.fence import fence
from llm.instance import ToolSpec
from llm.tokens import compact_json, input_bound, request_bytes
from llm.trimming import fit

# Shorter prefixes are not cached by any model, and a write costs more than it saves on a short one.
_CACHE_MIN_TOKENS = 1024
_LEAST_ROOM_BYTES = 512
_NOT_IN_METADATA = re.compile(r"[^A-Za-z0-9\s:_@$#=/+,.-]")
# Nova takes nothing at the top of a schema but type, properties and required. What these say is checked here anyway.
_UNSENT_AT_TOP = frozenset({"$schema", "$id", "title", "additionalProperties"})
_CACHE_POINT: Block = {"cachePoint": {"type": "default"}}


@dataclass(frozen=True, slots=True)
class Question:
    """One model call before it is known which model answers it."""

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    """Tools offered; none on a conclusion without a result tool."""
    must_call: str | None
    """None: the model may call tools or not; "": it must call one; else the name of the one it must call."""
    schema_text: str
    """Added to the system text for a model without tools, when a structured result is wanted."""
    max_output_tokens: int
    is_last: bool
    """No further turn follows, so that there is no use in caching what was said."""
    metadata: Mapping[str, str]


def build(question: Question, model: Model, *, max_input_tokens: int | None, max_output_tokens: int | None) -> Prepared:
    """The request as the model takes it, cut to its context window and, if given, to an input bound."""
    max_tokens = min(question.max_output_tokens, model.max_output, max_output_tokens or model.max_output)
    offered = question.tools if model.tools else ()
    tools = [_tool(spec) for spec in offered]
    system = (
        question.system if model.tools or not question.schema_text else f"{question.system}\n\n{question.schema_text}"
    )
    # A conclusion has tools no more, and a model refuses to be shown calls of tools that it has not got.
    spoken = question.messages if tools and not question.is_last else as_text(question.messages)
    messages, bytes_cut = fitted(spoken, system, tools, model, max_tokens, max_input_tokens)
    bound = input_bound(system, messages, tools, model.context_window)
    arguments: dict[str, Any] = {
        "modelId": model.id,
        "messages": messages,
        "inferenceConfig": {"maxTokens": max_tokens, **({"temperature": 0.0} if model.temperature else {})},
        "requestMetadata": {key: _metadata(value) for key, value in question.metadata.items() if value},
    }
    if model.system:
        arguments["system"] = [{"text": system}]
    else:
        arguments["messages"] = [
            {"role": "user", "content": [{"text": system}, *messages[0]["content"]]},
            *messages[1:],
        ]
    if tools:
        arguments["toolConfig"] = {
            "tools": [{"toolSpec": tool} for tool in tools],
            **_choice(question.must_call, model),
        }
    return Prepared(_with_cache_points(arguments, model, question.is_last), bound, max_tokens, bytes_cut > 0)


def fitted(
    messages: Sequence[Message],
    system: str,
    tools: Sequence[Mapping[str, Any]],
    model: Model,
    max_tokens: int,
    max_input_tokens: int | None,
) -> tuple[list[Message], int]:
    """The messages, cut where they do not fit beside all the rest, and how many bytes were cut."""
    fixed = request_bytes(system, (), tools)
    window = _window_bytes(model, max_tokens)
    if max_input_tokens is not None:  # a bound in tokens counts one per byte, and what frames the messages
        framing = input_bound("", messages, tools, model.context_window) - request_bytes("", messages, tools)
        window = min(window, max_input_tokens - max(0, framing))
    return fit(messages, max(_LEAST_ROOM_BYTES, window - fixed))


def is_tight(question: Question, model: Model) -> bool:
    """Whether the conversation has to be cut to fit the model."""
    tools = [_tool(spec) for spec in question.tools]
    max_tokens = min(question.max_output_tokens, model.max_output)
    return request_bytes(question.system, question.messages, tools) > _window_bytes(model, max_tokens)


def _window_bytes(model: Model, max_tokens: int) -> int:
    """What the model can read beside an answer of so many tokens, by a cautious average."""
    return int((model.context_window - max_tokens) * model.bytes_per_token)


def as_text(messages: Sequence[Message]) -> list[Message]:
    """The conversation without tool blocks, for a call that offers no tools: calls and results become text."""
    plain: list[Message] = []
    for message in messages:
        blocks = [text for block in message["content"] for text in _plain(block)]
        if plain and plain[-1]["role"] == message["role"]:
            plain[-1]["content"] += blocks
        elif blocks:
            plain.append({"role": message["role"], "content": blocks})
    return plain


def _plain(block: Block) -> list[Block]:
    if use := block.get("toolUse"):
        return [{"text": fence("tool_call", compact_json(use["input"]), use["name"])}]
    if result := block.get("toolResult"):
        return [{"text": part["text"]} for part in result["content"]]
    return [block]


def _tool(spec: ToolSpec) -> dict[str, Any]:
    schema = {key: value for key, value in spec.input_schema.items() if key not in _UNSENT_AT_TOP}
    return {"name": spec.name, "description": spec.description, "inputSchema": {"json": schema}}


def _choice(must_call: str | None, model: Model) -> dict[str, Any]:
    if must_call and "tool" in model.tool_choice:
        return {"toolChoice": {"tool": {"name": must_call}}}
    if must_call is not None and "any" in model.tool_choice:
        return {"toolChoice": {"any": {}}}
    return {}


def _metadata(value: str) -> str:
    return _NOT_IN_METADATA.sub("-", value)[:256]


def _with_cache_points(arguments: dict[str, Any], model: Model, is_last: bool) -> dict[str, Any]:
    """Marks what later calls begin with: tools and system text always; the messages when another turn may follow."""
    tools = [tool["toolSpec"] for tool in arguments.get("toolConfig", {}).get("tools", ())]
    system = arguments.get("system", [{"text": ""}])[0]["text"]
    prefix = request_bytes(system, (), tools) / model.bytes_per_token
    if "system" in model.caching and "system" in arguments and prefix >= _CACHE_MIN_TOKENS:
        arguments["system"] = [*arguments["system"], _CACHE_POINT]
    messages: list[Message] = arguments["messages"]
    whole = request_bytes(system, messages, tools) / model.bytes_per_token
    if "messages" in model.caching and not is_last and whole >= _CACHE_MIN_TOKENS:
        for index in sorted({0, len(messages) - 1}):
            messages[index] = {**messages[index], "content": [*messages[index]["content"], _CACHE_POINT]}
    return arguments
