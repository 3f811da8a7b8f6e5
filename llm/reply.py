"""Putting a model's reply together from the events of its stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm.bedrock_errors import Kind, ModelCallError
from llm.conversation import Block
from llm.model_text import json_object, sound
from svc_common.tokens import TokenUsage

MALFORMED = "malformed_json"
"""Only key of a tool call's input that was no JSON object; its value is what the model wrote."""


@dataclass(slots=True)
class _OpenBlock:
    tool: Mapping[str, str] | None = None
    """Id and name of the tool it calls; None: it is text."""
    pieces: list[str] = field(default_factory=list)


class Reply:
    """A reply as far as it has come."""

    def __init__(self, thinking_tag: str = "", spoken_tool: str = "") -> None:
        self.stop_reason = ""
        """Empty until the model has stopped."""
        self.usage: TokenUsage | None = None
        self.is_answering = False
        """What has come last of the content is for the reader: no thought, and no call of a tool but the spoken one."""
        self._thinking_tag = thinking_tag
        self._spoken_tool = spoken_tool
        self._filter = _ThoughtFilter(thinking_tag)
        self._open = _OpenBlock()
        self._blocks: list[Block] = []

    @property
    def is_complete(self) -> bool:
        return bool(self.stop_reason) and self.usage is not None

    def feed(self, event: Mapping[str, Any]) -> str:
        """Takes the next event and returns the text in it that is for the reader: answer text, or arguments of the spoken tool.

        Raises ModelCallError (STREAM_BROKEN) for an event that lacks what it must have.
        """
        try:
            return self._take(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelCallError(Kind.STREAM_BROKEN, "an event of the response is malformed", begun=True) from error

    def blocks(self) -> list[Block]:
        """The reply as Converse content blocks, an unfinished one included if it is text."""
        unfinished = _OpenBlock(pieces=self._open.pieces) if self._open.tool is None else _OpenBlock()
        return self._blocks + _as_blocks(unfinished)

    @property
    def partial_tool_text(self) -> str:
        """JSON text of the spoken tool's call, if the reply broke off in it."""
        return "".join(self._open.pieces) if self._is_in_spoken_tool else ""

    @property
    def _is_in_spoken_tool(self) -> bool:
        return self._open.tool is not None and self._open.tool["name"] == self._spoken_tool

    def _take(self, event: Mapping[str, Any]) -> str:
        if "contentBlockDelta" in event:
            shown = self._delta(event["contentBlockDelta"]["delta"])
            self.is_answering = self.is_answering or bool(shown)
            return shown
        if "contentBlockStart" in event:
            use = event["contentBlockStart"]["start"].get("toolUse")
            if use is not None:
                self._open = _OpenBlock(tool={"toolUseId": _text(use, "toolUseId"), "name": _text(use, "name")})
                self.is_answering = self._is_in_spoken_tool
        elif "contentBlockStop" in event:
            self._close_block()
            self._filter = _ThoughtFilter(self._thinking_tag)
        elif "messageStop" in event:
            self.stop_reason = _text(event["messageStop"], "stopReason")
        elif "metadata" in event:
            self.usage = _usage(event["metadata"]["usage"])
        return ""

    def _delta(self, delta: Mapping[str, Any]) -> str:
        if "text" in delta:
            shown = self._filter.feed(_text(delta, "text"))
            self._open.pieces.append(shown)
            return shown
        if "toolUse" in delta:
            piece = _text(delta["toolUse"], "input")
            self._open.pieces.append(piece)
            return piece if self._is_in_spoken_tool else ""
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
    text = "".join(block.pieces)
    value = json_object(text) if text.strip() else {}
    return {MALFORMED: text} if value is None else value


def _text(holder: Mapping[str, Any], key: str) -> str:
    value = holder[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text")
    return sound(value)


def _usage(usage: Mapping[str, Any]) -> TokenUsage:
    return TokenUsage(
        input_tokens=_count(usage["inputTokens"]),
        output_tokens=_count(usage["outputTokens"]),
        cache_read_tokens=_count(usage.get("cacheReadInputTokens") or 0),
        cache_write_tokens=_count(usage.get("cacheWriteInputTokens") or 0),
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError("no count of tokens")
    return value
