"""Contexts of the two change tools: what happened to the code, newest first, and to the documents, in order of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from tool_svc.context.material import Filling, PreparedContext, fill
from tool_svc.context.request import ContextRequest
from tool_svc.context.scoped import ScopedView
from tool_svc.index.changelogs import ChangeEntry
from tool_svc.index.languages import Role
from tool_svc.index.view import Change

CONSIDERED_COMMITS = 1_000
SHOWN_PATHS = 12


@dataclass(frozen=True, slots=True)
class _DatedBlock:
    """A change as it is shown. `path` is the file it stands in or changed first."""

    date: str
    path: str
    body: str


def codebase_changelog_context(view: ScopedView, request: ContextRequest) -> PreparedContext:
    """Every entry of the headers' change histories with its file and every commit to source files, newest first."""
    blocks = _entries(view, Role.CODE, Role.DOCUMENT) + _commits(view, Role.CODE)
    filling = _newest_that_fit(blocks, request)
    return filling.prepared(view.id, len(view.files), {"query": request.query, "change_entries": filling.text()})


def documentation_changelog_context(view: ScopedView, request: ContextRequest) -> PreparedContext:
    """Every change log entry, release note and commit to documents, in order of time.

    When not all fits, the oldest entries are left out.
    """
    blocks = _entries(view, Role.CHANGELOG) + _commits(view, Role.DOCUMENT, Role.CHANGELOG)
    filling = _newest_that_fit(blocks, request)
    filling.blocks.reverse()
    return filling.prepared(view.id, len(view.files), {"query": request.query, "changelog_entries": filling.text()})


def _entries(view: ScopedView, *roles: Role) -> list[_DatedBlock]:
    files = [file for file in view.of_roles(*roles) if file.changes]
    return [
        _DatedBlock(entry.date, path, _entry_text(entry))
        for path, facts in view.facts(files).items()
        for entry in facts.changes
    ]


def _commits(view: ScopedView, *roles: Role) -> list[_DatedBlock]:
    blocks = []
    for change in view.recent_changes(CONSIDERED_COMMITS):
        paths = [path for path in change.paths if view.files[path].role in roles]
        if paths:
            blocks.append(_DatedBlock(_iso(change.time), paths[0], _commit_text(change, paths)))
    return blocks


def _newest_that_fit(blocks: Iterable[_DatedBlock], request: ContextRequest) -> Filling:
    # Entries without a date keep their place behind the dated ones: release notes have the newest first.
    newest_first = sorted(blocks, key=lambda block: block.date, reverse=True)
    candidates = ((block.path, partial(str, block.body)) for block in newest_first)
    return fill(candidates, request.token_budget, request.count_tokens, share=0.25)


def _entry_text(entry: ChangeEntry) -> str:
    author = f" by {entry.author}" if entry.author else ""
    about = f"[{', '.join(entry.files)}] " if entry.files else ""
    return "\n".join([f"{entry.date or 'undated'}: {about}{entry.summary}{author}", *entry.details])


def _commit_text(change: Change, paths: list[str]) -> str:
    subject, _, body = change.message.partition("\n")
    more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
    changed = [f"changed: {', '.join(paths[:SHOWN_PATHS])}{more}"] if len(paths) > 1 else []
    return "\n".join(
        [f"{_iso(change.time)}: {subject} (commit {change.hash[:10]})", *changed, *body.strip().splitlines()]
    )


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
