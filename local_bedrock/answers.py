"""What a backend decided to answer, the limits every answer is held to, and the steps in which it is sent.

Whatever the backend, `maxTokens` and stop sequences are enforced here, on the whole answer, before its first step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from local_bedrock.calls import OutputBlock, Text, ToolUse
from local_bedrock.errors import ConnectionDropped, OddEvent, ServiceError, UnmodelledFrame
from local_bedrock.tokens import Tokenizer


@dataclass(frozen=True, slots=True)
class Pacing:
    """Seconds to the first step and before each further delta, and characters a delta carries."""

    first_token_s: float = 0.0
    chunk_s: float = 0.0
    chunk_chars: int = 16


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, after `after_chunks` deltas, or before the response has begun (None).

    `failure` is raised; None stalls for ever.
    """

    failure: ServiceError | UnmodelledFrame | OddEvent | ConnectionDropped | None
    after_chunks: int | None = None


@dataclass(frozen=True, slots=True)
class UsageOverride:
    """Counts reported and billed in place of the real ones; None keeps the real one."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer within its limits. `output_tokens` counts all of `blocks`, sent or not."""

    blocks: tuple[OutputBlock, ...]
    stop_reason: str
    output_tokens: int
    stop_sequence: str | None = None
    pacing: Pacing = field(default_factory=Pacing)
    fault: Fault | None = None
    drop_at_byte: int | None = None
    usage: UsageOverride = field(default_factory=UsageOverride)
    omit_usage: bool = False
    billed: bool = True
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    pass


@dataclass(frozen=True, slots=True)
class BlockStarted:
    index: int
    block: OutputBlock


@dataclass(frozen=True, slots=True)
class BlockDelta:
    index: int
    kind: Literal["text", "tool"]
    fragment: str


@dataclass(frozen=True, slots=True)
class BlockStopped:
    index: int


Step: TypeAlias = Started | BlockStarted | BlockDelta | BlockStopped


def limit_answer(
    blocks: Sequence[OutputBlock],
    tokenizer: Tokenizer,
    max_tokens: int,
    stop_sequences: Sequence[str],
    stop_reason: str | None = None,
) -> Answer:
    """Hold an answer to the caller's limits: text ends before the first stop sequence, everything at `max_tokens`.

    `stop_reason` is what to say when no limit bites; by default `tool_use` or `end_turn`.
    """
    kept: list[OutputBlock] = []
    left = max_tokens
    for block in blocks:
        stopped_by = _first_stop(block.text, stop_sequences) if isinstance(block, Text) else None
        if stopped_by is not None and isinstance(block, Text):
            block = Text(block.text[: block.text.index(stopped_by)])
        fitting, used, whole = _fit(block, tokenizer, left)
        if fitting is not None:
            kept.append(fitting)
        left -= used
        if not whole:
            return Answer(tuple(kept), "max_tokens", max_tokens - left)
        if stopped_by is not None:
            return Answer(tuple(kept), "stop_sequence", max_tokens - left, stop_sequence=stopped_by)
    natural = "tool_use" if any(isinstance(block, ToolUse) for block in kept) else "end_turn"
    return Answer(tuple(kept), stop_reason or natural, max_tokens - left)


def _first_stop(text: str, stop_sequences: Sequence[str]) -> str | None:
    found = [(text.index(stop), stop) for stop in stop_sequences if stop and stop in text]
    return min(found)[1] if found else None


def _fit(block: OutputBlock, tokenizer: Tokenizer, left: int) -> tuple[OutputBlock | None, int, bool]:
    """The block as far as `left` tokens reach (None: not at all), its tokens, and whether it is whole."""
    if isinstance(block, Text):
        used = tokenizer.count(block.text)
        if used <= left:
            return (block if block.text else None), used, True
        text = tokenizer.cut(block.text, left)
        return (Text(text) if text else None), tokenizer.count(text), False
    name = tokenizer.count(block.name)
    if name > left:
        return None, 0, False
    used = name + tokenizer.count(block.input_text)
    if used <= left:
        return block, used, True
    given = tokenizer.cut(block.input_text, left - name)
    return replace(block, input_text=given), name + tokenizer.count(given), False


async def play(answer: Answer) -> AsyncGenerator[Step, None]:
    """The answer's steps at its pace. Raises the fault's failure where it strikes; a stall waits to be cancelled."""
    await asyncio.sleep(answer.pacing.first_token_s)
    fault = answer.fault
    if fault is not None and fault.after_chunks is None:
        await _strike(fault)
    yield Started()
    sent = 0
    for index, block in enumerate(answer.blocks):
        yield BlockStarted(index, block)
        text = block.text if isinstance(block, Text) else block.input_text
        for start in range(0, len(text), answer.pacing.chunk_chars):
            if fault is not None and sent == fault.after_chunks:
                await _strike(fault)
            if sent:
                await asyncio.sleep(answer.pacing.chunk_s)
            kind: Literal["text", "tool"] = "text" if isinstance(block, Text) else "tool"
            yield BlockDelta(index, kind, text[start : start + answer.pacing.chunk_chars])
            sent += 1
        yield BlockStopped(index)
    if (
        fault is not None
    ):  # it was to strike later than the answer lasts: it strikes at the end, never silently not at all
        await _strike(fault)


async def _strike(fault: Fault) -> None:
    if fault.failure is not None:
        raise fault.failure
    await asyncio.Event().wait()
