"""File formats: headers in any comment style, change histories, outlines."""

from __future__ import annotations

import pytest

from tool_svc.index import changelogs, headers, outline, words
from tool_svc.index.headers import Compliance
from tool_svc.index.languages import Role, language_of, role_of
from tool_svc.index.parse import FileFacts, parse_file

RULE = "#" * 79
FULL_HEADER = f"""#!/usr/bin/env python3
{RULE}
# IMPORTANT: this header is kept up to date
{RULE}
# [GenAI coding tool directive]
# - Keep this header
{RULE}
# [Source file intent]
# Holds the queue.
#   Indented detail.
{RULE}
# [Source file design principles]
# - One method, one transaction
{RULE}
# [Source file constraints]
# None known
{RULE}
# [Reference documentation]
# - doc/DESIGN.md
{RULE}
# [GenAI tool change history]
# 2025-04-15T10:00:00Z : Second change by CodeAssistant
# * Renamed lease
# * Added fence
# 2025-04-14T09:30:00Z : First version by CodeAssistant
# * Created
{RULE}

# [Source file intent] in code is no header
def lease(): ...
"""


def test_reads_every_section_of_a_header() -> None:
    header = headers.parse_header(FULL_HEADER, "Python")
    assert header.compliance is Compliance.COMPLIANT
    assert header.intent == "Holds the queue.\n  Indented detail."
    assert header.sections[headers.REFERENCES] == "- doc/DESIGN.md"
    assert list(header.sections) == list(headers.SECTIONS)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("line comments", f"// {RULE}\n// [Source file intent]\n// Draws.\n// {RULE}\nint main() {{}}\n"),
        ("block comment with stars", "/*\n * [Source file intent]\n * Draws.\n */\nint main() {}\n"),
        ("bare block comment", f"/*\n{RULE}\n[Source file intent]\nDraws.\n{RULE}\n*/\nint main() {{}}\n"),
        ("sql", f"-- {RULE}\n-- [Source file intent]\n-- Draws.\n-- {RULE}\nSELECT 1;\n"),
        ("markup", f"<!--\n{RULE}\n[Source file intent]\nDraws.\n{RULE}\n-->\n<html></html>\n"),
        ("docstring", f'"""\n{RULE}\n[Source file intent]\nDraws.\n{RULE}\n"""\nx = 1\n'),
        ("windows line ends", f"# {RULE}\r\n# [Source file intent]\r\n# Draws.\r\n# {RULE}\r\nx = 1\r\n"),
        ("no rules", "# [Source file intent]\n# Draws.\nx = 1\n"),
        ("batch", f"@echo off\nREM {RULE}\nREM [Source file intent]\nREM Draws.\nREM {RULE}\ndir\n"),
        ("batch labels", ":: [Source file intent]\n:: Draws.\ndir\n"),
        ("vim", f'" {RULE}\n" [Source file intent]\n" Draws.\n" {RULE}\nset nu\n'),
        ("fortran", f"! {RULE}\n! [Source file intent]\n! Draws.\n! {RULE}\nend\n"),
        ("basic", f"' {RULE}\n' [Source file intent]\n' Draws.\n' {RULE}\nDim x\n"),
        ("powershell", f"<#\n{RULE}\n[Source file intent]\nDraws.\n{RULE}\n#>\nGet-Item\n"),
    ],
)
def test_reads_headers_in_any_comment_style(style: str, text: str) -> None:
    header = headers.parse_header(text.replace("\r\n", "\n"), "Python")
    assert header.sections == {headers.INTENT: "Draws."}
    assert header.compliance is Compliance.INCOMPLETE


@pytest.mark.parametrize(
    ("path", "text", "role"),
    [
        ("a.html", "<!DOCTYPE html>\n<!--\n{}\n-->\n<html></html>\n", Role.CODE),
        ("a.css", '@charset "utf-8";\n/*\n{}\n*/\na {{}}\n', Role.CODE),
        (
            "a.yaml",
            "---\n# [Source file intent]\n# Draws.\n"
            "# [GenAI tool change history]\n# 2025-01-01T00:00:00Z : One by T\na: 1\n",
            Role.CODE,
        ),
        ("a.md", "<!--\n{}\n-->\n# A\n", Role.DOCUMENT),
    ],
)
def test_a_file_of_any_kind_may_have_a_header(path: str, text: str, role: Role) -> None:
    sections = f"[Source file intent]\nDraws.\n{RULE}\n[GenAI tool change history]\n2025-01-01T00:00:00Z : One by T"
    facts, search = parse_file(path, text.format(sections))
    assert facts.role is role
    assert facts.header.intent == "Draws."
    assert [change.summary for change in facts.changes] == ["One"]
    assert "Draws." in search.intent


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("test_a.py", f'"""Tests."""\n\nimport a\n\nHEADER = """\n{FULL_HEADER}"""\n'),
        ("a.py", f"def f():\n    pass\n\n\n{FULL_HEADER}"),
        ("Cargo.toml", "[dependencies]\nserde = 1\n"),
        ("a.ini", "[Dependencies]\nsystem = sqlite\n"),
        ("a.md", "# A\n\n* [Dependencies]\n* system: sqlite\n"),
        ("a.md", "<!-- toc -->\n# A\n\n* [Dependencies]\n* system: sqlite\n"),
        ("a.md", "# Headers\n\n```\n# [Source file intent]\n# Draws.\n```\n"),
    ],
)
def test_what_only_looks_like_a_header_is_none(path: str, text: str) -> None:
    facts, _ = parse_file(path, text)
    assert facts.header.sections == {}
    assert facts.changes == ()


def test_the_later_name_of_the_references_counts_as_the_section() -> None:
    sections = headers.parse_sections("# [Dependencies]\n# codebase: a.py\n# system: sqlite\nx = 1\n")
    assert sections == {headers.REFERENCES: "codebase: a.py\nsystem: sqlite"}


@pytest.mark.parametrize(
    ("language", "text", "intent"),
    [
        (
            "Python",
            '#!/usr/bin/python\n# -*- coding: utf-8 -*-\n\n"""Sends mail.\n\nBy SMTP.\n"""\n',
            "Sends mail.\n\nBy SMTP.",
        ),
        ("Python", "'one line'\nx = 1\n", "one line"),
        ("Python", "# Copyright (c) Somebody\n\n# Sends mail.\nimport smtplib\n", "Sends mail."),
        ("Go", "// Package mail sends mail.\npackage mail\n", "Package mail sends mail."),
        ("C", "/* Copyright Somebody */\n\n/*\n * Sends mail.\n */\n#include <x.h>\n", "Sends mail."),
        ("JavaScript", '"use strict";\n/** Sends mail. */\nlet a;\n', "Sends mail."),
        ("Python", "import os\n# not at the top\n", ""),
        ("Python", "x = '''no docstring'''\n", ""),
    ],
)
def test_docstring_or_leading_comment_stands_for_the_intent(language: str, text: str, intent: str) -> None:
    header = headers.parse_header(text, language)
    assert header.intent == intent
    assert header.compliance is Compliance.MISSING


@pytest.mark.parametrize("newest_first", [True, False])
def test_header_history_comes_newest_first_whatever_its_order(newest_first: bool) -> None:
    entries = [
        "2025-04-15T10:00:00Z : Second by Tool A\n* one\n* two",
        "2025-04-14T09:30:00Z : First by Tool A\n* three",
    ]
    parsed = changelogs.parse_header_history("\n".join(entries if newest_first else entries[::-1]))
    assert [(entry.date, entry.summary, entry.author, entry.details) for entry in parsed] == [
        ("2025-04-15T10:00:00Z", "Second", "Tool A", ("one", "two")),
        ("2025-04-14T09:30:00Z", "First", "Tool A", ("three",)),
    ]


def test_markdown_changelog_comes_in_order_of_time() -> None:
    text = "# Changes\n\n2025-04-15T10:00:00Z : [API.md, DESIGN.md] Added leases\n2025-04-14T09:00:00Z : [API.md] Created\nnoise\n"
    parsed = changelogs.parse_markdown_changelog(text)
    assert [(entry.date, entry.files, entry.summary) for entry in parsed] == [
        ("2025-04-14T09:00:00Z", ("API.md",), "Created"),
        ("2025-04-15T10:00:00Z", ("API.md", "DESIGN.md"), "Added leases"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# Changelog\n\n## [1.2.0] - 2024-05-01\n### Fixed\n- It\n\n## 1.1\n- Other\n",
            [("2024-05-01", "[1.2.0] - 2024-05-01"), ("", "1.1")],
        ),
        ("Version 3.0\n-----------\n\nReleased 2023-09-30\n\n- Drop it\n", [("2023-09-30", "Version 3.0")]),
        ("2.31.0 (2023-05-22)\n-------------------\n- Safe\n", [("2023-05-22", "2.31.0 (2023-05-22)")]),
        ("no release here, only 1.2.3 in a sentence\n", []),
    ],
)
def test_release_notes_become_one_entry_per_release(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(entry.date, entry.summary) for entry in changelogs.parse_release_notes(text)] == expected


@pytest.mark.parametrize(
    ("language", "text", "symbols"),
    [
        (
            "Python",
            "class A(B):\n    async def run(self): ...\ndef main() -> None:\n    'this class is'\n",
            ["run", "main", "A"],
        ),
        ("Go", "func (s *Server) Serve(l int) {}\ntype Config struct {}\n", ["Serve", "Config"]),
        ("Rust", "pub fn parse<T>(x: T) {}\nimpl<T> Reader {}\nstruct Reader;\n", ["Reader", "parse"]),
        ("C", "#include <a.h>\nstatic int\nadd(int a, int b)\n{\n}\n#define MAX 3\n", ["MAX", "add"]),
        ("Protocol Buffer", "service Jobs {\n  rpc Claim(X) returns (Y);\n}\nmessage X {}\n", ["X", "Jobs", "Claim"]),
    ],
)
def test_symbols_of_source_files(language: str, text: str, symbols: list[str]) -> None:
    assert sorted(outline.symbols_of(text, language)) == sorted(symbols)


def test_headings_of_documents_are_not_comments_in_code_blocks() -> None:
    markdown = "# Title\n\n```sh\n# a comment\n```\n\nSetext\n------\n\n## Last ##\n"
    assert outline.headings_of(markdown) == ["Title", "Setext", "Last"]
    assert outline.headings_of("=====\nTitle\n=====\n\nPart\n~~~~\ntext\n") == ["Title", "Part"]


def test_references_as_written() -> None:
    python = "from .store import JobStore\nimport os, sys\nfrom a.b import (\n    c,\n    d,\n)\n"
    assert set(outline.references_of(python, "Python")) >= {
        ".store",
        ".store.JobStore",
        "os",
        "sys",
        "a.b",
        "a.b.c",
        "a.b.d",
    }
    assert outline.references_of("[x](docs/a.md#part) [y](https://e.org) ![z](b.png)", "Markdown") == [
        "docs/a.md",
        "b.png",
    ]


def test_identifiers_are_split_as_people_ask_about_them() -> None:
    assert words.words_of("parseHTTPServer2 snake_case Über-Weg") == [
        "parse",
        "http",
        "server2",
        "snake",
        "case",
        "über",
        "weg",
    ]
    assert words.question_words("How does the JobStore claim jobs?") == ["job", "store", "claim", "jobs", "jobstore"]


@pytest.mark.parametrize(
    ("path", "role", "language"),
    [
        ("a/b.py", Role.CODE, "Python"),
        ("README.md", Role.DOCUMENT, "Markdown"),
        ("README", Role.DOCUMENT, ""),
        ("doc/MARKDOWN_CHANGELOG.md", Role.CHANGELOG, "Markdown"),
        ("CHANGES.rst", Role.CHANGELOG, "reStructuredText"),
        ("src/changes.py", Role.CODE, "Python"),
        ("package.json", Role.DATA, "JSON"),
        ("Makefile", Role.CODE, "Makefile"),
    ],
)
def test_the_part_a_file_plays(path: str, role: Role, language: str) -> None:
    assert role_of(path) is role
    assert language_of(path) == language


def test_facts_survive_being_kept() -> None:
    facts, _ = parse_file("queue.py", FULL_HEADER)
    assert FileFacts.from_json(facts.to_json()) == facts


@pytest.mark.parametrize(
    "text",
    [
        "# " * 200_000,
        "#\r\n" * 50_000 + "x",
        "import " * 100_000,
        "from a import (" * 50_000,
        "func (" * 100_000,
        "int f(" * 100_000,
        "](" * 200_000,
        "impl<" * 100_000,
        "aA" * 300_000,
        "a b" * 100_000 + " by " + " " * 100_000,
        "[GenAI \n" + ("# [Source file intent]\n" + "#" * 79 + "\n") * 5_000,
        "'''" + "\\'" * 200_000,
        "2.0" + "." * 300_000,
    ],
    ids=lambda text: text[:12].strip(),
)
@pytest.mark.parametrize("path", ["a.py", "a.c", "a.md", "CHANGELOG.md", "MARKDOWN_CHANGELOG.md", "a.rs"])
@pytest.mark.timeout(20)
def test_no_content_keeps_the_parser_busy(path: str, text: str) -> None:
    parse_file(path, text)
