"""The documents of a workspace: the context of the documentation tool."""

from __future__ import annotations

import posixpath
from functools import partial
from itertools import groupby

from tool_svc.context.material import CountTokens, PreparedContext, fill
from tool_svc.context.request import ContextRequest
from tool_svc.context.scoped import ScopedView
from tool_svc.index.languages import DOCUMENT_RELATIONSHIPS, Role
from tool_svc.index.outline import sections_of
from tool_svc.index.words import question_words

_SHARE_OF_ONE = 0.5
_MARK_TOKENS = 10


def documentation_context(view: ScopedView, request: ContextRequest) -> PreparedContext:
    """Texts of documents: DOCUMENT_RELATIONSHIPS.md always, the relevant ones, and others while there is room. Change logs are not
    among them.

    Of a document that would take more than half of the budget, the sections that speak of the query are shown.
    """
    words = question_words(request.query)
    room = int(request.token_budget * _SHARE_OF_ONE)

    def shown(path: str) -> str | None:
        text = view.text(path)
        return text if text is None else best_sections(text, words, room, request.count_tokens)

    relevant, others = (((path, partial(shown, path)) for path in paths) for paths in _documents(view, request.query))
    filling = fill(relevant, request.token_budget, request.count_tokens, share=_SHARE_OF_ONE, others=others)
    return filling.prepared(view.id, len(view.files), {"query": request.query, "documentation_files": filling.text()})


def best_sections(text: str, words: list[str], room: int, count_tokens: CountTokens) -> str:
    """`text`, or when it takes more than `room` tokens, its sections with the most of `words`, in their order.

    Sections begin at headings; what stands before the first one comes first. A mark stands for each run of sections that was
    left out.
    """
    if count_tokens(text) <= room:
        return text
    lines = text.split("\n")
    headings = {number for number, _ in sections_of(text)}
    starts = sorted({0, *headings})
    sections = [lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]
    chosen: set[int] = set()
    left = room
    for number in sorted(
        range(len(sections)), key=lambda number: (starts[number] in headings, -_found(sections[number], words))
    ):
        cost = count_tokens("\n".join(sections[number])) + _MARK_TOKENS
        if cost <= left:
            chosen.add(number)
            left -= cost
    if not chosen:
        return text
    shown: list[str] = []
    for is_chosen, run in groupby(range(len(sections)), key=chosen.__contains__):
        numbers = list(run)
        count = sum(len(sections[number]) for number in numbers)
        shown += (
            [line for number in numbers for line in sections[number]] if is_chosen else [f"[{count} lines left out]"]
        )
    return "\n".join(shown)


def _found(section: list[str], words: list[str]) -> float:
    """How much a section speaks of `words`: each that occurs counts once, more in the heading, a little more for each repeat."""
    heading, body = section[0].lower(), "\n".join(section).lower()
    return sum((word in heading) + (word in body) + min(body.count(word), 10) / 100 for word in words)


def _documents(view: ScopedView, query: str) -> tuple[list[str], list[str]]:
    """Paths of the documents to show, and of those that only fill what room is left."""
    always = [path for path in view.files if posixpath.basename(path) == DOCUMENT_RELATIONSHIPS]
    relevant, others = (
        [file.path for file in files if file.path not in always] for files in view.best_first(query, [Role.DOCUMENT])
    )
    return [*always, *relevant], others
