"""JSON objects and arrays, read as far as they go where they were cut to fit. Pure, linear in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from local_bedrock.calls import Json

_CUT_MARK = re.compile(r"\n\[\.\.\. \d+ bytes left out[^\n]*\]\s*\Z")
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_TELLING = re.compile(r"[\[\]{},\"\\]")


def parse_json(text: str) -> Json:
    """The object or array that a text is or begins to be; None for any other text."""
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return None
    attempts = (_loads(attempt) for attempt in _attempts(stripped))
    return next((parsed for parsed in attempts if isinstance(parsed, dict | list)), None)


def _attempts(text: str) -> Iterator[str]:
    """What the text may have been, best first: as it is, with the value it breaks off in, and up to the value before that."""
    yield text
    cut = _CUT_MARK.sub("", text)
    closing, whole = _closing(cut)
    yield _HALF_ESCAPE.sub("", cut) + closing if closing[:1] == '"' else cut + closing
    yield cut[:whole] + _closing(cut[:whole])[0]


def _loads(text: str) -> Json:
    try:
        parsed: Json = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return parsed


def _closing(text: str) -> tuple[str, int]:
    """What closes all that is open at the end of the text, and the length up to which no value is broken off."""
    brackets: list[str] = []
    in_string = False
    escaped_at = -1
    whole = 0
    for match in _TELLING.finditer(text):
        character, at = match[0], match.start()
        if at == escaped_at:
            continue
        if character == "\\":
            escaped_at = at + 1
        elif character == '"':
            in_string = not in_string
        elif in_string:
            continue
        elif character in "{[":
            brackets.append("}" if character == "{" else "]")
            whole = at + 1
        elif character == ",":
            whole = at
        elif brackets:
            brackets.pop()
    return ('"' if in_string else "") + "".join(reversed(brackets)), whole
