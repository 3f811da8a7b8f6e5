"""Blocks of text about files, and how many of them fit a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

CountTokens = Callable[[str], int]

BYTES_PER_TOKEN = 3
CUT_MARK = "[cut: the rest of this text did not fit]"
NAMED_LEFT_OUT = 200
# Less room than this shows too little of a file to be of use.
LEAST_TOKENS = 120
# Kept free for the word that something was left out.
NOTE_TOKENS = 16

Candidate = tuple[str, Callable[[], "str | None"]]
"""A path, and what makes the text about it (None: nothing to show)."""


def estimate_tokens(text: str) -> int:
    """An upper bound in practice of the tokens of `text`: one for every three bytes of UTF-8.

    Tokenisers of present models make 3.3 to 4.5 bytes of code or English one token; three leaves room for other
    languages.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class PreparedContext:
    """What a tool's LLM is shown, and what not.

    `values` fill the placeholders of the tool's template. `included` are the files with a block, best first;
    `truncated` those of them that were cut. `left_out` names the best of the relevant files that have no block because
    it did not fit, `left_out_count` counts all of them. `tokens` is the estimate for all blocks.
    """

    snapshot_id: str
    values: Mapping[str, str]
    included: tuple[str, ...]
    truncated: tuple[str, ...]
    left_out: tuple[str, ...]
    left_out_count: int
    files_in_scope: int
    tokens: int


@dataclass(slots=True)
class Filling:
    """Blocks taken within a budget, in the order they were offered. `left_out` has the path of each that did not fit."""

    blocks: list[str] = field(default_factory=list)
    included: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    tokens: int = 0

    def text(self) -> str:
        """The taken blocks, a blank line between them, and at the end how many did not fit."""
        note = [f"[left out for lack of room: {len(self.left_out)} more]"] if self.left_out else []
        return "\n\n".join([*self.blocks, *note])

    def prepared(self, snapshot_id: str, files_in_scope: int, values: Mapping[str, str]) -> PreparedContext:
        """The context made of `values` (the text of this filling among them)."""
        included = dict.fromkeys(self.included)
        left_out = [path for path in dict.fromkeys(self.left_out) if path not in included]
        return PreparedContext(
            snapshot_id,
            values,
            tuple(included),
            tuple(dict.fromkeys(self.truncated)),
            tuple(left_out[:NAMED_LEFT_OUT]),
            len(left_out),
            files_in_scope,
            self.tokens,
        )


def fill(
    candidates: Iterable[Candidate],
    budget: int,
    count_tokens: CountTokens,
    *,
    share: float = 1.0,
    others: Iterable[Candidate] = (),
) -> Filling:
    """Takes a block for each candidate, the best first, while they fit `budget` tokens, then for each of `others`.

    A block is the path on a line of its own, so that a reader can cite it, and the text. One block takes at most
    `share` of what is left when its turn comes; a longer one is cut at the end of a line, with a mark. Candidates that
    come when the budget is used up are left out and counted; that others are is not worth a word.
    """
    filling = Filling()
    room = budget - NOTE_TOKENS
    for path, make in candidates:
        if room - filling.tokens < LEAST_TOKENS:
            filling.left_out.append(path)
        else:
            _take(filling, path, make(), room - filling.tokens, share, count_tokens)
    for path, make in others:
        if room - filling.tokens < LEAST_TOKENS:
            break
        _take(filling, path, make(), room - filling.tokens, share, count_tokens)
    return filling


def _take(filling: Filling, path: str, body: str | None, left: int, share: float, count_tokens: CountTokens) -> None:
    if body is None:
        return
    room = max(int(left * share), min(left, LEAST_TOKENS))
    block, is_cut = _cut(f"{path}\n{body.strip()}", room, count_tokens)
    filling.blocks.append(block)
    filling.included.append(path)
    filling.tokens += count_tokens(block) + 1
    if is_cut:
        filling.truncated.append(path)


def cut_text(text: str, room: int, count_tokens: CountTokens) -> str:
    """`text`, or as many of its first lines as fit `room` tokens, with a mark."""
    return _cut(text, room, count_tokens)[0]


def _cut(text: str, room: int, count_tokens: CountTokens) -> tuple[str, bool]:
    if count_tokens(text) < room:
        return text, False
    lines = text.split("\n")
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens("\n".join([*lines[:middle], CUT_MARK])) < room:
            low = middle
        else:
            high = middle - 1
    # One line may be longer than the room, as in minified files.
    if low <= 1 and len(lines) > low:
        part = lines[low] if low < len(lines) else ""
        while part and count_tokens("\n".join([*lines[:low], part, CUT_MARK])) >= room:
            part = part[: len(part) * 3 // 4]
        return "\n".join([*lines[:low], part, CUT_MARK]), True
    return "\n".join([*lines[:low], CUT_MARK]), True
