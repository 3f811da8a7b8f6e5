"""What source files say about themselves: the contexts of the codebase tool and of the architect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from tool_svc.context.material import Filling, PreparedContext, fill
from tool_svc.context.request import ContextRequest
from tool_svc.context.scoped import ScopedView
from tool_svc.index.headers import INTENT, REFERENCES, SECTIONS, Compliance
from tool_svc.index.languages import Role
from tool_svc.index.parse import FileFacts
from tool_svc.index.view import IndexedFile

SHOWN_SYMBOLS = 40
_SHARE_OF_ONE = 0.25


def codebase_context(view: ScopedView, request: ContextRequest) -> PreparedContext:
    """Intent, references and symbols of relevant source files, of others while there is room; header statistics of the scope."""
    filling = _fill_with(view, request, summary)
    values = {"query": request.query, "file_headers": filling.text()} | compliance_values(view.of_roles(Role.CODE))
    return filling.prepared(view.id, len(view.files), values)


def expert_context(view: ScopedView, request: ContextRequest) -> PreparedContext:
    """Every section of the headers of the relevant files, and of all others in scope while there is room."""
    filling = _fill_with(view, request, all_sections)
    return filling.prepared(view.id, len(view.files), {"query": request.query, "file_headers": filling.text()})


def compliance_values(files: Iterable[IndexedFile]) -> dict[str, str]:
    """How many source files there are and how many keep to the header format, as template values."""
    counts = Counter(file.compliance for file in files)
    return {
        "total_files": str(counts.total()),
        "compliant_files": str(counts[Compliance.COMPLIANT]),
        "incomplete_header_files": str(counts[Compliance.INCOMPLETE]),
        "missing_header_files": str(counts[Compliance.MISSING]),
    }


def summary(facts: FileFacts) -> str:
    """Intent, reference documentation and the first symbols of a file."""
    lines = [f"intent: {_one_line(facts.header.intent) or '(the file does not say)'}"]
    if references := facts.header.sections.get(REFERENCES):
        lines.append(f"reference documentation: {_one_line(references)}")
    return "\n".join([*lines, *_symbols(facts)])


def all_sections(facts: FileFacts) -> str:
    """Every section of a file's header, or what stands for its intent when it has none, and its first symbols."""
    header = facts.header
    sections = [f"[{name}]\n{header.sections[name]}" for name in SECTIONS if header.sections.get(name)]
    if header.intent and not header.sections.get(INTENT):
        sections.insert(0, header.intent)
    return "\n".join([*sections, *_symbols(facts)]) or "(the file does not say)"


def _fill_with(view: ScopedView, request: ContextRequest, describe: Callable[[FileFacts], str]) -> Filling:
    def described(file: IndexedFile) -> str:
        return describe(view.facts([file])[file.path])

    relevant, others = (
        ((file.path, partial(described, file)) for file in files)
        for files in view.best_first(request.query, [Role.CODE])
    )
    return fill(relevant, request.token_budget, request.count_tokens, share=_SHARE_OF_ONE, others=others)


def _symbols(facts: FileFacts) -> list[str]:
    if not facts.symbols:
        return []
    more = len(facts.symbols) - SHOWN_SYMBOLS
    return [f"defines: {', '.join(facts.symbols[:SHOWN_SYMBOLS])}{f' and {more} more' if more > 0 else ''}"]


def _one_line(text: str) -> str:
    return " ".join(text.split())
