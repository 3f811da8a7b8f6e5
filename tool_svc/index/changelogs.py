"""Entries of change histories: in DBP headers, in MARKDOWN_CHANGELOG.md, and in the CHANGES files that most projects
keep.

Pure functions over text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STAMP = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
_HEADER_ENTRY = re.compile(rf"^[\s*\-]*({_STAMP})\s*:\s*(.*)$")
_AUTHOR = re.compile(r"^(.{1,1000}?)\s+by\s+(\S.{0,80}?)\.?$")
_MARKDOWN_ENTRY = re.compile(rf"^[\s*\-]*({_STAMP})\s*:\s*(?:\[([^\]]*)\])?\s*(.*)$")
_DATE = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_VERSION = re.compile(r"\bv?\d+\.\d+[\w.\-+]*", re.I)
_BARE_RELEASE = re.compile(
    rf"^\[?v?\d+\.\d+[\w.\-+]*\]?[\s:,\-(\u2013\u2014]*(?:{_STAMP}|unreleased|released .{{0,30}})?\)?:?$", re.I
)
_UNDERLINE = re.compile(r"^([=\-~^*+#])\1{2,}\s*$")
MAX_ENTRIES = 500
MAX_BODY_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class ChangeEntry:
    """One entry of a change history.

    `date` is ISO 8601 as it stood there ("" when the entry has none), `files` are those it names.
    """

    date: str
    summary: str
    details: tuple[str, ...] = ()
    author: str = ""
    files: tuple[str, ...] = ()


def parse_header_history(section: str) -> list[ChangeEntry]:
    """Entries of a `[GenAI tool change history]` section, newest first whatever the order in the file."""
    entries: list[ChangeEntry] = []
    for date, first, rest in _grouped(section.split("\n"), _HEADER_ENTRY):
        match = _AUTHOR.match(first)
        summary, author = (match[1], match[2]) if match else (first, "")
        details = tuple(line.strip().lstrip("*-").strip() for line in rest if line.strip().strip("*-"))
        entries.append(ChangeEntry(date, summary.strip(), details, author))
    return sorted(entries, key=lambda entry: entry.date, reverse=True)


def parse_markdown_changelog(text: str) -> list[ChangeEntry]:
    """Entries of a MARKDOWN_CHANGELOG.md, in chronological order (the file has the newest first)."""
    entries: list[ChangeEntry] = []
    for line in text.split("\n"):
        match = _MARKDOWN_ENTRY.match(line)
        if match:
            files = tuple(name.strip() for name in (match[2] or "").split(",") if name.strip())
            entries.append(ChangeEntry(match[1], match[3].strip(), files=files))
    return sorted(entries, key=lambda entry: entry.date)


def parse_release_notes(text: str) -> list[ChangeEntry]:
    """Entries of a CHANGELOG, NEWS or HISTORY file: one per release, in the order of the file (usually the newest
    first).
    """
    lines = text.split("\n")
    starts = [
        number
        for number, (line, following) in enumerate(zip(lines, [*lines[1:], ""], strict=True))
        if _is_release(line.rstrip(), following)
    ][:MAX_ENTRIES]
    ends = [*starts[1:], len(lines)]
    return [_release(lines[start].strip(), lines[start + 1 : end]) for start, end in zip(starts, ends, strict=False)]


def _is_release(line: str, following: str) -> bool:
    """Whether a line is the heading of a release: a version in a heading, or alone with its date."""
    if not line or len(line) > 120 or not _VERSION.search(line):
        return False
    return line.startswith("#") or _UNDERLINE.match(following) is not None or _BARE_RELEASE.match(line) is not None


def _release(title: str, body: list[str]) -> ChangeEntry:
    if body and _UNDERLINE.match(body[0]):
        body = body[1:]
    date = _DATE.search(title) or next((found for line in body[:3] if (found := _DATE.search(line))), None)
    text = "\n".join(line.rstrip() for line in body).strip()[:MAX_BODY_CHARACTERS]
    return ChangeEntry(date[0] if date else "", title.lstrip("#").strip(), (text,) if text else ())


def _grouped(lines: list[str], pattern: re.Pattern[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(date, first line, further lines) of each entry that `pattern` starts."""
    date, first, rest = "", "", list[str]()
    for line in lines:
        match = pattern.match(line)
        if match:
            if date:
                yield date, first, rest
            date, first, rest = match[1], match[2], []
        elif date:
            rest.append(line)
    if date:
        yield date, first, rest
