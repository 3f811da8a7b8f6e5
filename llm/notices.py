"""What the runner itself says to a model: `instance_notices.md`, beside the templates, read and checked once at start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from llm.templates import TemplateError, headings, line_of, read_prompt, without_comments

FILE_NAME = "instance_notices.md"

CONCLUDE = "Conclude"
CONCLUDE_WITH_RESULT = "Conclude With Result"
RESULT_TOOL = "Result Tool"
ASK_FOR_RESULT = "Ask For Result"
ASK_FOR_ANSWER = "Ask For Answer"
RESULT_SCHEMA = "Result Schema"
REPAIR = "Repair"
INVALID_ARGUMENTS = "Invalid Arguments"
UNKNOWN_TOOL = "Unknown Tool"
REPEATED_CALL = "Repeated Call"
TOO_MANY_CALLS = "Too Many Calls"
OUT_OF_TIME = "Out Of Time"

_PLACEHOLDERS: Mapping[str, frozenset[str]] = {
    CONCLUDE: frozenset({"reason"}),
    CONCLUDE_WITH_RESULT: frozenset({"reason"}),
    RESULT_TOOL: frozenset(),
    ASK_FOR_RESULT: frozenset(),
    ASK_FOR_ANSWER: frozenset(),
    RESULT_SCHEMA: frozenset({"schema"}),
    REPAIR: frozenset({"problems"}),
    INVALID_ARGUMENTS: frozenset({"problems"}),
    UNKNOWN_TOOL: frozenset({"tools"}),
    REPEATED_CALL: frozenset(),
    TOO_MANY_CALLS: frozenset({"limit"}),
    OUT_OF_TIME: frozenset(),
}
_PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}")


class Notices:
    """The checked texts by occasion."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def text(self, occasion: str, **values: str) -> str:
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self._texts[occasion])


def load_notices(folder: Path) -> Notices:
    """Raises TemplateError naming file and line when the file is missing, lacks an occasion or has an unknown placeholder."""
    path = folder / FILE_NAME
    text = without_comments(read_prompt(path))
    found = headings(text)
    ends = [match.start() for match in found[1:]] + [len(text)]
    texts: dict[str, str] = {}
    for match, end in zip(found, ends, strict=True):
        known = _PLACEHOLDERS.get(match[1])
        if known is None:
            raise TemplateError(path, line_of(text, match.start()), f"unknown notice {match[1]!r}")
        body = text[match.end() : end].strip()
        if not body:
            raise TemplateError(path, line_of(text, match.start()), f"notice {match[1]!r} is empty")
        used = frozenset(_PLACEHOLDER.findall(body))
        if used - known:
            unknown = ", ".join(sorted(used - known))
            raise TemplateError(
                path, line_of(text, match.start()), f"notice {match[1]!r}: unknown placeholder {unknown}"
            )
        texts[match[1]] = body
    if missing := set(_PLACEHOLDERS) - set(texts):
        raise TemplateError(path, line_of(text, len(text)), f"notice '## {sorted(missing)[0]}' is missing")
    return Notices(texts)
