"""Answers in the three dialects of the wire: Converse, Nova's native body and Anthropic's. Pure.

A dialect turns the steps of an answer into stream events and the whole answer into one body.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Protocol

from local_bedrock import eventstream
from local_bedrock.answers import Answer, BlockDelta, BlockStarted, BlockStopped, Started, Step
from local_bedrock.calls import Json, OutputBlock, Text, ToolUse, Usage, compact_json
from local_bedrock.errors import ServiceError


class Dialect(Protocol):
    """One call's response. Frames come in the order of the answer's steps, then those of the end."""

    def step(self, step: Step) -> Iterator[bytes]:
        """Frames that say one step."""

    def end(self, answer: Answer, usage: Usage, latency_ms: int) -> Iterator[bytes]:
        """Frames after the last step: stop reason and, unless the answer omits it, usage."""

    def body(self, answer: Answer, usage: Usage, latency_ms: int) -> Json:
        """The whole answer, for the operations without a stream. Raises ServiceError if it has malformed tool JSON."""


class Converse:
    def step(self, step: Step) -> Iterator[bytes]:
        for event_type, body in _converse_step(step):
            yield self._frame(event_type, body)

    def end(self, answer: Answer, usage: Usage, latency_ms: int) -> Iterator[bytes]:
        yield self._frame("messageStop", {"stopReason": answer.stop_reason})
        if not answer.omit_usage:
            yield self._frame("metadata", {"usage": _usage(usage), "metrics": {"latencyMs": latency_ms}})

    def body(self, answer: Answer, usage: Usage, latency_ms: int) -> Json:
        content: list[Json] = [
            {"text": block.text} if isinstance(block, Text) else {"toolUse": _tool_use(block, answer)}
            for block in answer.blocks
        ]
        return {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": answer.stop_reason,
            "usage": _usage(usage),
            "metrics": {"latencyMs": latency_ms},
        }

    def _frame(self, event_type: str, body: dict[str, Json]) -> bytes:
        return eventstream.encode_event(event_type, body)


class Nova(Converse):
    """The same events, each wrapped into a chunk of InvokeModel's stream."""

    def _frame(self, event_type: str, body: dict[str, Json]) -> bytes:
        return _chunk({event_type: body})


class Anthropic:
    """The Messages API's events in chunks. `usage` for the message_start event is what is known before the answer."""

    def __init__(self, call_id: str, model_id: str, usage: Usage) -> None:
        self._message: dict[str, Json] = {
            "id": f"msg_{call_id}",
            "type": "message",
            "role": "assistant",
            "model": model_id,
        }
        self._usage = usage

    def step(self, step: Step) -> Iterator[bytes]:
        match step:
            case Started():
                usage = _anthropic_usage(self._usage)
                message: Json = {
                    **self._message,
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": usage,
                }
                yield _chunk({"type": "message_start", "message": message})
            case BlockStarted(index, Text()):
                empty: Json = {"type": "text", "text": ""}
                yield _chunk({"type": "content_block_start", "index": index, "content_block": empty})
            case BlockStarted(index, ToolUse(tool_use_id, name)):
                opened: Json = {"type": "tool_use", "id": tool_use_id, "name": name, "input": {}}
                yield _chunk({"type": "content_block_start", "index": index, "content_block": opened})
            case BlockDelta(index, "text", fragment):
                text: Json = {"type": "text_delta", "text": fragment}
                yield _chunk({"type": "content_block_delta", "index": index, "delta": text})
            case BlockDelta(index, _, fragment):
                given: Json = {"type": "input_json_delta", "partial_json": fragment}
                yield _chunk({"type": "content_block_delta", "index": index, "delta": given})
            case BlockStopped(index):
                yield _chunk({"type": "content_block_stop", "index": index})

    def end(self, answer: Answer, usage: Usage, latency_ms: int) -> Iterator[bytes]:
        stop: Json = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
        yield _chunk({"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage.output_tokens}})
        last: dict[str, Json] = {"type": "message_stop"}
        if not answer.omit_usage:
            last["amazon-bedrock-invocationMetrics"] = {
                "inputTokenCount": usage.input_tokens,
                "outputTokenCount": usage.output_tokens,
                "invocationLatency": latency_ms,
                "firstByteLatency": latency_ms,
                "cacheReadInputTokenCount": usage.cache_read_tokens,
                "cacheWriteInputTokenCount": usage.cache_write_tokens,
            }
        yield _chunk(last)

    def body(self, answer: Answer, usage: Usage, latency_ms: int) -> Json:
        content: list[Json] = []
        for block in answer.blocks:
            if isinstance(block, Text):
                content.append({"type": "text", "text": block.text})
            else:
                given = _parse_input(block, answer)
                content.append({"type": "tool_use", "id": block.tool_use_id, "name": block.name, "input": given})
        return {
            **self._message,
            "content": content,
            "stop_reason": answer.stop_reason,
            "stop_sequence": answer.stop_sequence,
            "usage": _anthropic_usage(usage),
        }


def _converse_step(step: Step) -> Iterator[tuple[str, dict[str, Json]]]:
    match step:
        case Started():
            yield "messageStart", {"role": "assistant"}
        case BlockStarted(index, ToolUse(tool_use_id, name)):  # a text block has no start event
            start: Json = {"toolUse": {"toolUseId": tool_use_id, "name": name}}
            yield "contentBlockStart", {"start": start, "contentBlockIndex": index}
        case BlockDelta(index, "text", fragment):
            yield "contentBlockDelta", {"delta": {"text": fragment}, "contentBlockIndex": index}
        case BlockDelta(index, _, fragment):
            yield "contentBlockDelta", {"delta": {"toolUse": {"input": fragment}}, "contentBlockIndex": index}
        case BlockStopped(index):
            yield "contentBlockStop", {"contentBlockIndex": index}


def _chunk(event: Json) -> bytes:
    return eventstream.encode_event("chunk", {"bytes": base64.b64encode(compact_json(event).encode()).decode()})


def _tool_use(block: ToolUse, answer: Answer) -> Json:
    return {"toolUseId": block.tool_use_id, "name": block.name, "input": _parse_input(block, answer)}


def _parse_input(block: OutputBlock, answer: Answer) -> Json:
    assert isinstance(block, ToolUse)
    try:
        parsed: Json = json.loads(block.input_text)
    except json.JSONDecodeError:
        if answer.stop_reason == "max_tokens":
            return {}
        raise ServiceError("ModelErrorException", "Model produced invalid sequence as part of ToolUse.") from None
    return parsed


def _usage(usage: Usage) -> Json:
    counts: dict[str, Json] = {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.total_tokens,
        "cacheReadInputTokens": usage.cache_read_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    }
    return counts


def _anthropic_usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
    }
