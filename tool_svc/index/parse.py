"""From the text of one file to what the index keeps of it. Pure."""

from __future__ import annotations

import json
import posixpath
from dataclasses import asdict, dataclass
from typing import Any

from tool_svc.index import changelogs, headers, outline, words
from tool_svc.index.changelogs import ChangeEntry
from tool_svc.index.languages import MARKDOWN_CHANGELOG, Role, language_of, role_of

# Text beyond this adds little to what a file is about, and its symbols and headings are taken from all of it.
INDEXED_CHARACTERS = {Role.CODE: 16_384, Role.DOCUMENT: 32_768, Role.CHANGELOG: 8_192, Role.DATA: 2_048}
# Raise when the facts of the same content change, so that kept ones are parsed anew.
PARSER_VERSION = 4


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file from its content and the kind its name tells."""

    language: str
    role: Role
    header: headers.Header
    symbols: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    changes: tuple[ChangeEntry, ...] = ()

    def to_json(self) -> str:
        """As text to keep; `from_json` reads it."""
        values = {
            "language": self.language,
            "role": self.role.value,
            "intent": self.header.intent,
            "sections": self.header.sections,
            "symbols": self.symbols,
            "headings": self.headings,
            "references": self.references,
            "changes": [asdict(change) for change in self.changes],
        }
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> FileFacts:
        """The facts `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(
            values["language"],
            Role(values["role"]),
            headers.Header(values["intent"], values["sections"]),
            tuple(values["symbols"]),
            tuple(values["headings"]),
            tuple(values["references"]),
            tuple(
                ChangeEntry(
                    change["date"],
                    change["summary"],
                    tuple(change["details"]),
                    change["author"],
                    tuple(change["files"]),
                )
                for change in values["changes"]
            ),
        )


@dataclass(frozen=True)  # no slots: with them unpickling takes many times as long
class SearchText:
    """The fields of a file's content that queries are matched with."""

    intent: str
    symbols: str
    headings: str
    text: str


def flavour_of(path: str) -> str:
    """What of a path decides how its content is read. Files with one content and one flavour share their facts."""
    if posixpath.basename(path) == MARKDOWN_CHANGELOG:
        return MARKDOWN_CHANGELOG
    return f"{role_of(path)}:{language_of(path)}"


def parse_file(path: str, text: str) -> tuple[FileFacts, SearchText]:
    """What the content `text` of a file named `path` says. Data with a header is code: it says of itself what source files do."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    language, role = language_of(path), role_of(path)
    if role is Role.CODE:
        header = headers.parse_header(text, language)
    else:
        header = headers.parse_other_header(text, is_document=role is not Role.DATA)
        if role is Role.DATA and header.sections:
            role = Role.CODE
    symbols, headings = list[str](), list[str]()
    changes = changelogs.parse_header_history(header.sections.get(headers.HISTORY, ""))
    if role is Role.CODE:
        symbols = outline.symbols_of(text, language)
    elif role in {Role.DOCUMENT, Role.CHANGELOG}:
        headings = outline.headings_of(text)
        if posixpath.basename(path) == MARKDOWN_CHANGELOG:
            changes = changelogs.parse_markdown_changelog(text)
        elif role is Role.CHANGELOG:
            changes = changelogs.parse_release_notes(text)
    references = outline.references_of(text, language) if role is not Role.DATA else []
    facts = FileFacts(language, role, header, tuple(symbols), tuple(headings), tuple(references), tuple(changes))
    sections = " ".join(header.sections.values())
    indexed = text[: INDEXED_CHARACTERS[role]]
    return facts, SearchText(
        f"{header.intent}\n{sections}" if sections else header.intent,
        words.name_words(symbols),
        "\n".join(headings),
        f"{indexed}\n{words.split_compounds(' '.join(words.compounds_of(indexed)))}" if role is Role.CODE else indexed,
    )
