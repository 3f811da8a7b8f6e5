"""Prompt templates: Markdown files, read and checked once at start.

    # Title
    Version: 1.2

    ## System Instruction      who the model is and what it does
    ## User Query Format       the first user message; the only section with {{placeholders}}
    ## Example Usage           part of the system text
    ## Response Format         prose, part of the system text, and for structured output one ```json block with a JSON schema

HTML comments are for people and are taken out. Braces other than {{name}} are text. A placeholder on a line of its own becomes a
data fence (`llm.fence`); one within a line becomes a short plain value. So no template can let material in unfenced.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from llm.fence import fence, inline

SECTIONS = ("System Instruction", "User Query Format", "Example Usage", "Response Format")

_PLACEHOLDER = re.compile(r"\{\{([^{}\n]*)\}\}")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BLOCK_PLACEHOLDER = re.compile(r"^[ \t]*\{\{([a-z][a-z0-9_]*)\}\}[ \t]*$", re.MULTILINE)
_LABEL_AT_END = re.compile(r"[^\n]*:[ \t]*\n+\Z")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE_BLOCK = re.compile(r"^```json[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_VERSION = re.compile(r"\**Version:?\**:?\s*(\S+)", re.IGNORECASE)


class TemplateError(Exception):
    """A template that cannot be used. The message is one line that begins with file:line."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}")


@dataclass(frozen=True, slots=True)
class Template:
    """One checked prompt."""

    name: str
    """Registered name of the tool, or "coordinator_main": the file's stem."""
    version: str
    system: str
    """System text: instruction, example and how to respond; the same for every call, so that it can be cached."""
    user_format: str
    response_schema: Mapping[str, Any] | None
    """JSON schema of the response, of type object; None when the response is text."""
    placeholders: frozenset[str]
    content_hash: str
    """Hex SHA-256 of the file."""

    def render(self, values: Mapping[str, str]) -> list[str]:
        """The first user message, one piece per fence and per stretch of text between fences.

        A value on a line of its own is fenced under its placeholder's name; an empty one is left out together with a label (a line
        that ends in a colon) right above it. Raises ValueError when the values are not those of the placeholders.
        """
        if missing := self.placeholders - set(values):
            raise ValueError(f"template {self.name}: no value for {', '.join(sorted(missing))}")
        if unknown := set(values) - self.placeholders:
            raise ValueError(f"template {self.name}: no placeholder {', '.join(sorted(unknown))}")
        pieces: list[str] = []
        end = 0
        for match in _BLOCK_PLACEHOLDER.finditer(self.user_format):
            before = _with_inline_values(self.user_format[end : match.start()], values)
            value = values[match[1]]
            if value.strip():
                pieces += [before, fence(match[1], value)]
            else:
                pieces.append(_LABEL_AT_END.sub("", before))
            end = match.end()
        pieces.append(_with_inline_values(self.user_format[end:], values))
        return [piece.strip("\n") for piece in pieces if piece.strip()]


def load_templates(folder: Path, placeholders: Mapping[str, Collection[str]]) -> Mapping[str, Template]:
    """The templates with the given names, each with the placeholders that its user gives values for.

    Raises TemplateError for a file that is missing or malformed or has a placeholder nobody fills.
    """
    return {name: load_template(folder / f"{name}.md", known) for name, known in placeholders.items()}


def load_template(path: Path, known_placeholders: Collection[str]) -> Template:
    raw = read_prompt(path)
    text = without_comments(raw)
    starts = _section_starts(path, text)
    title = text[: starts[SECTIONS[0]][0]]
    version = _version(path, title)
    sections = {name: text[body:end].strip("\n") for name, (_, body, end) in starts.items()}
    for name, section in sections.items():
        line = line_of(text, starts[name][0])
        if not section.strip():
            raise TemplateError(path, line, f"section {name!r} is empty")
        if name != "User Query Format" and (found := _PLACEHOLDER.search(section)):
            at = line_of(text, text.index(found[0], starts[name][1]))
            raise TemplateError(path, at, f"placeholder {found[0]} outside of the section 'User Query Format'")
    body_start = starts["User Query Format"][1]
    used = _placeholders(path, text, sections["User Query Format"], body_start, known_placeholders)
    if "query" in known_placeholders and "query" not in used:
        raise TemplateError(path, line_of(text, body_start), "the user's {{query}} is nowhere in 'User Query Format'")
    prose, schema = _response_format(path, text, starts["Response Format"][1], starts["Response Format"][2])
    system = "\n\n".join(
        part.strip()
        for part in (
            sections["System Instruction"],
            f"## Example\n\n{sections['Example Usage'].strip()}",
            f"## Response\n\n{prose}",
        )
    )
    return Template(
        name=path.stem,
        version=version,
        system=system,
        user_format=sections["User Query Format"],
        response_schema=schema,
        placeholders=frozenset(known_placeholders),
        content_hash=hashlib.sha256(raw.encode()).hexdigest(),
    )


def read_prompt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TemplateError(path, 1, "there is no such prompt file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(path, 1, f"cannot be read: {error}") from error


def without_comments(text: str) -> str:
    """The text with comments emptied but their line breaks kept, so that line numbers stay true."""
    return _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), text)


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def headings(text: str) -> list[re.Match[str]]:
    """Second-level headings outside of code blocks."""
    fences = [match.span() for match in re.finditer(r"^```.*?^```[ \t]*$", text, re.MULTILINE | re.DOTALL)]
    found = re.finditer(r"^## (.+?)[ \t]*$", text, re.MULTILINE)
    return [match for match in found if not any(start <= match.start() < end for start, end in fences)]


def _section_starts(path: Path, text: str) -> dict[str, tuple[int, int, int]]:
    """Where each section's heading begins, its body begins and its body ends."""
    found = headings(text)
    names = [match[1] for match in found]
    for match in found:
        if match[1] not in SECTIONS:
            raise TemplateError(path, line_of(text, match.start()), f"unknown section {match[1]!r}")
        if names.count(match[1]) > 1:
            raise TemplateError(path, line_of(text, match.start()), f"section {match[1]!r} occurs twice")
    for name in SECTIONS:
        if name not in names:
            raise TemplateError(path, line_of(text, len(text)), f"section '## {name}' is missing")
    if tuple(names) != SECTIONS:
        raise TemplateError(
            path, line_of(text, found[0].start()), f"sections must be in the order {', '.join(SECTIONS)}"
        )
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {match[1]: (match.start(), match.end(), end) for match, end in zip(found, ends, strict=True)}


def _version(path: Path, title: str) -> str:
    lines = title.split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if not re.match(r"# \S", lines[first]):
        raise TemplateError(path, first + 1, "must begin with a title: '# ...'")
    for line in lines[first + 1 :]:
        if match := _VERSION.match(line.strip()):
            return match[1]
    raise TemplateError(path, first + 2, "no version line: 'Version: ...' below the title")


def _placeholders(path: Path, text: str, section: str, start: int, known: Collection[str]) -> set[str]:
    used = set()
    offset = text.index(section, start)
    for match in _PLACEHOLDER.finditer(section):
        line = line_of(text, offset + match.start())
        if not _NAME.fullmatch(match[1]):
            raise TemplateError(path, line, f"{match[0]} is no placeholder: names are lower case with underscores")
        if match[1] not in known:
            raise TemplateError(path, line, f"unknown placeholder {match[0]}; known: {', '.join(sorted(known))}")
        used.add(match[1])
    return used


def _response_format(path: Path, text: str, start: int, end: int) -> tuple[str, Mapping[str, Any] | None]:
    blocks = list(_CODE_BLOCK.finditer(text, start, end))
    if len(blocks) > 1:
        raise TemplateError(path, line_of(text, blocks[1].start()), "more than one ```json block in 'Response Format'")
    if not blocks:
        return text[start:end].strip(), None
    block = blocks[0]
    line = line_of(text, block.start(1))
    try:
        schema = json.loads(block[1])
    except json.JSONDecodeError as error:
        raise TemplateError(path, line + error.lineno - 1, f"the response schema is not JSON: {error.msg}") from error
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise TemplateError(path, line, 'the response schema must be of "type": "object"')
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise TemplateError(path, line, f"not a JSON schema: {error.message}") from error
    prose = (text[start : block.start()] + text[block.end() : end]).strip()
    return prose, schema


def _with_inline_values(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: inline(values[match[1]]), text)
