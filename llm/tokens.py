"""How many tokens a call may use at most, reckoned offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

# Role markers, tool framing and the like that models add around what was sent; generous for every family known.
_PER_CALL = 64
_PER_MESSAGE = 16
_PER_BLOCK = 16
_PER_TOOL = 64
# Claude and Nova put a hidden instruction in front of any tool use.
_TOOL_USE = 640


def compact_json(value: Any) -> str:
    """JSON in as few bytes as it can be written, as models are sent it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def text_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def block_bytes(block: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what a model reads of one Converse content block."""
    if "text" in block:
        return text_bytes(block["text"])
    if "toolUse" in block:
        use = block["toolUse"]
        return text_bytes(use["toolUseId"]) + text_bytes(use["name"]) + text_bytes(compact_json(use["input"]))
    if "toolResult" in block:
        result = block["toolResult"]
        return text_bytes(result["toolUseId"]) + sum(block_bytes(part) for part in result["content"])
    return 0


def request_bytes(system: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> int:
    """UTF-8 bytes of all text and tool JSON of a Converse request. `tools` are `toolSpec` bodies."""
    spoken = sum(block_bytes(block) for message in messages for block in message["content"])
    offered = sum(text_bytes(compact_json(tool)) for tool in tools)
    return text_bytes(system) + spoken + offered


def input_bound(
    system: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    context_window: int,
) -> int:
    """No tokenizer makes more tokens of this request: every family known cuts UTF-8 bytes into pieces of one byte or more.

    Three to four times too high as a rule. A model cannot read more than its context window, so that caps it.
    """
    blocks = sum(len(message["content"]) for message in messages)
    overhead = _PER_CALL + _PER_MESSAGE * len(messages) + _PER_BLOCK * blocks
    overhead += _TOOL_USE + _PER_TOOL * len(tools) if tools else 0
    return min(request_bytes(system, messages, tools) + overhead, context_window)
