"""Prose in source files: docstrings and comments, each with the name of what it stands at. Pure, linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from local_bedrock.backends.prose import Passage, passages, points_back

_DOCUMENT = re.compile(
    r"\.(?:md|rst|txt|markdown|adoc)$|(?:^|/)(?:README|CHANGELOG|LICENSE|NEWS|HISTORY)[^/]*$", re.IGNORECASE
)
_DEFINITION = re.compile(
    r"\s*(?:(?:pub|public|private|protected|static|export|default|abstract|final|async|local)\s+)*"
    r"(?:def|class|func|fn|function|struct|enum|trait|interface|type|message|service|rpc|module)\s+(?P<name>[A-Za-z_]\w*)"
)
_DOCSTRING = re.compile(r"\s*[rRbBuU]{0,2}(?P<quote>\"\"\"|''')")
_COMMENT = re.compile(r"\s*(?:#+(?!\[)[:!]?|///?!?|/\*+|\*+(?!/)|--|;+|<!--)\s?(?P<said>.*)$")
_TOOL_MARK = re.compile(r"\s*(?:noqa|type:|pylint|mypy|fmt:|pragma|!/|-\*-|eslint|@ts-|TODO|FIXME|XXX|Copyright|SPDX)")


def is_document(path: str) -> bool:
    """Whether a file is prose as a whole."""
    return _DOCUMENT.search(path) is not None


def said_in_source(text: str) -> Iterator[Passage]:
    """Passages of docstrings and comments; their heading is the dotted name of the class and function they stand in."""
    names: list[tuple[int, str]] = []  # what is open here: indentation and name
    said: list[str] = []
    closing = ""
    for line in text.splitlines():
        if closing:
            body, closed, _ = line.partition(closing)
            said.append(body)
            if closed:
                yield from _passages(said, names)
                said, closing = [], ""
            continue
        indent = len(line) - len(line.lstrip())
        opened = _DOCSTRING.match(line)
        comment = None if opened else _COMMENT.match(line)
        if said and not comment:
            yield from _passages(said, names, is_aside=bool(names))
            said = []
        if opened or (comment and not said):
            names = [(at, name) for at, name in names if at < indent]
        if opened:
            body, closed, _ = line[opened.end() :].partition(opened["quote"])
            said.append(body)
            if closed:
                yield from _passages(said, names)
                said = []
            else:
                closing = opened["quote"]
        elif comment:
            if not _TOOL_MARK.match(comment["said"]):
                said.append(comment["said"].removesuffix("*/").removesuffix("-->"))
        elif defined := _DEFINITION.match(line):
            names = [(at, name) for at, name in names if at < indent] + [(indent, defined["name"])]
    yield from _passages(said, names)


def _passages(said: list[str], names: list[tuple[int, str]], *, is_aside: bool = False) -> list[Passage]:
    margin = min((len(line) - len(line.lstrip()) for line in said[1:] if line.strip()), default=0)
    if len(said) > 2 and not said[1].strip() and points_back(said[2].strip()):
        said = [f"{said[0]} {said[2].strip()}", *said[3:]]  # a summary that the paragraph under it goes on with
    text = "\n".join([line.strip() if at == 0 else line[margin:] for at, line in enumerate(said)])
    heading = ".".join(name for _, name in names)
    return [Passage(passage.text, heading, is_aside) for passage in passages(text)]
