"""Making a conversation fit a context window: what matters least is cut first, visibly, and nothing fails.

Ranks, first cut first: results of tools from earlier rounds, prepared material, results of the last round, the question. Within
a rank the longest pieces are cut to an equal length, so that short ones stay whole; of a piece its beginning stays, where the best
stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from enum import IntEnum

from llm.conversation import Block, Message
from llm.fence import cut, name_of
from llm.tokens import block_bytes, text_bytes

# A piece is left this much before the next rank is touched; only when that does not help, nothing.
_FLOOR = 240
# What a cut's mark and closing tag may add.
_MARK = 90


class _Rank(IntEnum):
    OLD_RESULT = 0
    MATERIAL = 1
    NEW_RESULT = 2
    QUESTION = 3


def fit(messages: Sequence[Message], max_bytes: int) -> tuple[list[Message], int]:
    """The messages in at most `max_bytes`, if cutting can do it, and how many bytes were cut."""
    fitted = list(deepcopy(messages))
    pieces = _pieces(fitted)
    excess = sum(block_bytes(block) for message in fitted for block in message["content"]) - max_bytes
    before = excess
    for floor in (_FLOOR, 0):
        for rank in _Rank:
            if excess <= 0:
                break
            excess -= _cut([block for at, block in pieces if at is rank], excess, floor)
    return fitted, max(0, before - excess)


def _pieces(messages: Sequence[Message]) -> list[tuple[_Rank, Block]]:
    """The text blocks that may be cut, those in tool results included. What the model itself said stays."""
    pieces: list[tuple[_Rank, Block]] = []
    for index, message in enumerate(messages):
        if message["role"] != "user":
            continue
        result_rank = _Rank.NEW_RESULT if index and index == len(messages) - 1 else _Rank.OLD_RESULT
        for block in message["content"]:
            if "toolResult" in block:
                pieces += [(result_rank, part) for part in block["toolResult"]["content"] if "text" in part]
            elif "text" in block and (name := name_of(block["text"])):
                rank = {"query": _Rank.QUESTION, "tool_result": result_rank}.get(name, _Rank.MATERIAL)
                pieces.append((rank, block))
    return pieces


def _cut(blocks: Sequence[Block], excess: int, floor: int) -> int:
    """Cuts the longest of the blocks to one level, not under `floor`, to win `excess` bytes. Returns the bytes won."""
    level = _level([text_bytes(block["text"]) for block in blocks], excess, floor)
    won = 0
    for block in blocks:
        size = text_bytes(block["text"])
        if size > level + _MARK:
            block["text"] = cut(block["text"], level)
            won += size - text_bytes(block["text"])
    return won


def _level(sizes: Sequence[int], excess: int, floor: int) -> int:
    """The highest level, not under `floor`, that wins `excess` bytes when all that is longer is cut to it; else `floor`."""
    low, high = floor, max(sizes, default=floor)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(size - middle - _MARK for size in sizes if size > middle + _MARK) >= excess:
            low = middle
        else:
            high = middle - 1
    return low
