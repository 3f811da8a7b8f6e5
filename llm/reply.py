"""Putting a model's reply together from the events of its stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm.conversation import Block
from svc_common.tokens import TokenUsage

MALFORMED = "malformed_json"
"""Only key of a tool call's input that was no JSON object; its value is what the model wrote."""


@dataclass(slots=True)
class _OpenBlock:
    tool: Mapping[str, Any] | None = None
    pieces: list[Any] = field(default_factory=list)


class Reply:
    """A reply as far as it has come."""

    def __init__(self, thinking_tag: str = "", spoken_tool: str = "") -> None:
        self.stop_reason = ""
        """Empty until the model has stopped."""
        self.usage: TokenUsage | None = None
        self.has_begun = False
        """Something of the content has come, a thought or part of a tool call included."""
        self._thinking_tag = thinking_tag
        self._spoken_tool = spoken_tool
        self._filter = _ThoughtFilter(thinking_tag)
        self._open = _OpenBlock()
        self._blocks: list[Block] = []

    @property
    def is_complete(self) -> bool:
        return bool(self.stop_reason) and self.usage is not None

    def feed(self, event: Mapping[str, Any]) -> str:
        """Takes the next event and returns the text in it that is for the reader: answer text, or arguments of the spoken tool."""
        if delta := event.get("contentBlockDelta"):
            self.has_begun = True
            return self._delta(delta["delta"])
        if start := event.get("contentBlockStart"):
            self._open = _OpenBlock(tool=start["start"].get("toolUse"))
        elif "contentBlockStop" in event:
            self._close_block()
            self._filter = _ThoughtFilter(self._thinking_tag)
        elif stop := event.get("messageStop"):
            self.stop_reason = stop["stopReason"]
        elif metadata := event.get("metadata"):
            self.usage = _usage(metadata["usage"])
        return ""

    def blocks(self) -> list[Block]:
        """The reply as Converse content blocks, an unfinished one included if it is text."""
        unfinished = _OpenBlock(pieces=self._open.pieces) if self._open.tool is None else _OpenBlock()
        return self._blocks + _as_blocks(unfinished)

    @property
    def partial_tool_text(self) -> str:
        """JSON text of a tool call that the reply broke off in."""
        return "".join(self._open.pieces) if self._open.tool and _is_text(self._open) else ""

    def _delta(self, delta: Mapping[str, Any]) -> str:
        if "text" in delta:
            shown = self._filter.feed(delta["text"])
            self._open.pieces.append(shown)
            return shown
        if "toolUse" in delta:
            piece = delta["toolUse"]["input"]
            self._open.pieces.append(piece)
            is_spoken = self._open.tool is not None and self._open.tool["name"] == self._spoken_tool
            return piece if is_spoken and isinstance(piece, str) else ""
        return ""

    def _close_block(self) -> None:
        self._blocks += _as_blocks(self._open)
        self._open = _OpenBlock()


class _ThoughtFilter:
    """Takes out one leading <tag>...</tag> of a text that comes in pieces."""

    def __init__(self, tag: str) -> None:
        self._begin, self._end = f"<{tag}>", f"</{tag}>"
        self._held = ""
        self._state = "begin" if tag else "pass"

    def feed(self, text: str) -> str:
        if self._state == "pass":
            return text
        self._held += text
        if self._state == "begin":
            seen = self._held.lstrip()
            if self._begin.startswith(seen):
                return ""
            self._state = "within" if seen.startswith(self._begin) else "pass"
        if self._state == "within":
            _, end, rest = self._held.partition(self._end)
            if not end:
                return ""
            self._state, self._held = "after", rest
        if self._state == "after":
            if not self._held.strip():
                return ""
            self._state, self._held = "pass", self._held.lstrip()
        return self._held


def _as_blocks(block: _OpenBlock) -> list[Block]:
    if block.tool is None:
        text = "".join(block.pieces)
        return [{"text": text}] if text.strip() else []
    use = {"toolUseId": block.tool["toolUseId"], "name": block.tool["name"], "input": _tool_input(block)}
    return [{"toolUse": use}]


def _tool_input(block: _OpenBlock) -> dict[str, Any]:
    if not _is_text(block):  # an answer that was not streamed brings the object itself
        return dict(block.pieces[0])
    text = "".join(block.pieces)
    try:
        value = json.loads(text) if text.strip() else {}
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {MALFORMED: text}


def _is_text(block: _OpenBlock) -> bool:
    return all(isinstance(piece, str) for piece in block.pieces)


def _usage(usage: Mapping[str, Any]) -> TokenUsage:
    return TokenUsage(
        input_tokens=usage.get("inputTokens", 0),
        output_tokens=usage.get("outputTokens", 0),
        cache_read_tokens=usage.get("cacheReadInputTokens", 0) or 0,
        cache_write_tokens=usage.get("cacheWriteInputTokens", 0) or 0,
    )
