"""Text as models write it, which may be anything: made fit to be kept and sent on, or read as the JSON it is meant to be."""

from __future__ import annotations

import json
from typing import Any

# Deeper than any schema asks for; far deeper ones would exhaust the stack of whoever copies or checks them.
_MAX_DEPTH = 60


def sound(text: str) -> str:
    """The text with each half of a surrogate pair, which no encoding takes, replaced."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def json_object(text: str) -> dict[str, Any] | None:
    """The object that a text is in JSON, or None when it is none, or one that cannot be written as JSON again."""
    try:
        value = json.loads(text)
        if isinstance(value, dict) and _is_shallow(value):
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            return value
    except (ValueError, RecursionError):
        pass
    return None


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _within(outer)]
        if not level:
            return True
    return False


def _within(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
