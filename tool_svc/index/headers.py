"""What a source file says about itself at its top: DBP headers, module docstrings, leading comments.

Pure functions over text. A DBP header is a run of `[Section]` blocks in comments of any style, often between lines of
79 `#`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

DIRECTIVE = "GenAI coding tool directive"
INTENT = "Source file intent"
PRINCIPLES = "Source file design principles"
CONSTRAINTS = "Source file constraints"
REFERENCES = "Reference documentation"
HISTORY = "GenAI tool change history"
SECTIONS = (DIRECTIVE, INTENT, PRINCIPLES, CONSTRAINTS, REFERENCES, HISTORY)

_BY_NAME = {name.lower(): name for name in SECTIONS} | {"dependencies": REFERENCES}
_MARKER = re.compile(r"\[(?:GenAI |Source file |Reference documentation\]|Dependencies\])", re.I)
_SECTION = re.compile(r"^\[([A-Za-z ]+)\]$")
_RULE = re.compile(r"^[#=\-*/~_+]{10,}$")
# Marks that begin a comment in some language and text in others, so a space must follow.
_WORDLIKE = r"(?:[\"'!]|::|(?i:@?rem))(?=\s|$)"
_LEADER = re.compile(rf"^\s*(?:#+|//+!?|--+|;+|%+|<!--+|<#+|/\*+!?|\*(?=\s|$|\*)|{_WORDLIKE})[ \t]?")
_BLOCK_END = re.compile(r"(?:\*+/|--+>|#+>)\s*$")
_OPENING = re.compile(r"^\s*(?:<!--|<#|/\*|\"\"\"|'''|\{-|\(\*|--\[\[|=begin)")
_CLOSING = re.compile(r"(?:-->|#>|\*/|\"\"\"|'''|-\}|\*\)|\]\]|=end)\s*$")
# What may stand before a file's own words without being code.
_PREAMBLE = ("#!", "<?", "<!DOCTYPE", '"use strict"', "'use strict'", "package ", "syntax ", "@echo ", "@charset ")
_LICENCE = re.compile(r"copyright|licen[cs]e|spdx|all rights reserved|permission is hereby", re.I)
# Possessive quantifiers: what leads up to a docstring can be read in one way only.
_DOCSTRING = re.compile(
    r"\A(?:[ \t]*+(?:#[^\n]*+)?\n)*+[ \t]*+[rRuU]?(?:\"\"\"(.*?)\"\"\"|'''(.*?)'''|\"([^\"\n]++)\"|'([^'\n]++)')", re.S
)
_LINE_COMMENT = re.compile(rf"^\s*(?:#(?!!|include|define|pragma|if|import|undef)|//|--(?!\[)|;|%|{_WORDLIKE})")

HEADER_LINES = 400
MARKER_CHARACTERS = 64 * 1024
LINE_CHARACTERS = 1_000
INTENT_CHARACTERS = 1200


class Compliance(StrEnum):
    """How far a file keeps to the DBP header format."""

    COMPLIANT = "compliant"
    INCOMPLETE = "incomplete"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Header:
    """A file's own words about itself.

    `sections` holds the DBP sections by their present names, without comment marks; `intent` is the intent section, or
    what stands for it (module docstring, leading comment), "" without any.
    """

    intent: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)

    @property
    def compliance(self) -> Compliance:
        """COMPLIANT when every section is there and none is empty, MISSING when none is there."""
        if not self.sections:
            return Compliance.MISSING
        return Compliance.COMPLIANT if all(self.sections.get(name) for name in SECTIONS) else Compliance.INCOMPLETE


def parse_header(text: str, language: str) -> Header:
    """The header of a source file with content `text`, or what stands for it."""
    sections = parse_sections(text)
    intent = sections.get(INTENT) or (_docstring(text) if language == "Python" else "") or _leading_comment(text)
    return Header(_shortened(intent), sections)


def parse_other_header(text: str, *, is_document: bool) -> Header:
    """The header of a file with content `text` that is no source file: nothing else stands for it.

    That of a document is in a markup comment at its start, for what else begins with a mark there is a heading or a list.
    """
    if is_document:
        text = text.partition("-->")[0] if text.lstrip().startswith("<!--") else ""
    sections = parse_sections(text)
    return Header(_shortened(sections.get(INTENT, "")), sections)


def parse_sections(text: str) -> dict[str, str]:
    """The DBP sections in the comments before the first line of code in `text`; the first of a name counts."""
    if _MARKER.search(text, 0, MARKER_CHARACTERS) is None:
        return {}
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in _header_lines(text):
        if line is None:
            current = None
        elif (match := _SECTION.match(line.strip())) and (name := _BY_NAME.get(match[1].strip().lower())):
            current = [] if name in found else found.setdefault(name, [])
        elif _RULE.match(line.strip()):
            current = None
        elif current is not None:
            current.append(line.rstrip())
    return {name: _dedented(lines) for name, lines in found.items()}


def _header_lines(text: str) -> Iterator[str | None]:
    """The lines before the first one of code, without their comment marks; None where a block comment ends."""
    in_block = False
    for whole in text.split("\n", HEADER_LINES)[:HEADER_LINES]:
        line = whole[:LINE_CHARACTERS]
        bare = _LEADER.sub("", line)
        is_rule = _RULE.match(line.strip()) is not None
        if in_block:
            if _CLOSING.search(line):
                in_block = False
                yield _LEADER.sub("", _CLOSING.sub("", line))
                yield None
            else:
                yield bare
        elif _OPENING.match(line) and not is_rule:
            opened = _OPENING.sub("", line)
            if _CLOSING.search(opened):
                yield _CLOSING.sub("", opened).strip()
            else:
                in_block = True
                yield opened.strip()
        elif is_rule:
            yield line.strip()
        elif bare != line or not line.strip():
            yield bare
        elif not line.lstrip().startswith(_PREAMBLE):
            return


def _docstring(text: str) -> str:
    match = _DOCSTRING.match(text)
    return next((group for group in match.groups() if group), "") if match else ""


def _leading_comment(text: str) -> str:
    """The first comment before any code that is not about the licence, without comment marks."""
    for block in _comment_blocks(text):
        bare = _dedented([_BLOCK_END.sub("", _LEADER.sub("", line)) for line in block])
        if bare and not _LICENCE.search(bare):
            return bare
    return ""


def _comment_blocks(text: str) -> Iterator[list[str]]:
    """Comments before the first line of code, split at blank lines and block ends."""
    block: list[str] = []
    in_block = False
    for whole in text.split("\n", 80)[:80]:
        line = whole[:LINE_CHARACTERS]
        stripped = line.strip()
        if in_block:
            block.append(line)
            in_block = _CLOSING.search(line) is None
            if not in_block:
                yield block
                block = []
        elif stripped.startswith(("/*", "<!--", "<#")):
            block = [line]
            in_block = _CLOSING.search(stripped[3:]) is None
            if not in_block:
                yield block
                block = []
        elif _LINE_COMMENT.match(line):
            block.append(line)
        elif stripped and not stripped.startswith(_PREAMBLE):
            break
        elif block:
            yield block
            block = []
    if block:
        yield block


def _dedented(lines: list[str]) -> str:
    kept = [line.rstrip() for line in lines]
    margin = min((len(line) - len(line.lstrip()) for line in kept if line), default=0)
    return "\n".join(line[margin:] for line in kept).strip("\n").strip()


def _shortened(text: str) -> str:
    text = _dedented(text.strip().split("\n"))
    return text if len(text) <= INTENT_CHARACTERS else text[:INTENT_CHARACTERS].rsplit(None, 1)[0] + " …"
