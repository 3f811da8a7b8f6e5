"""How long a regular expression that somebody else wrote may take, since Python's engine has no limit of its own."""

from __future__ import annotations

import re

_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_FIXED_COUNT = re.compile(r"\{\d+\}")
_QUANTIFIER = re.compile(r"[*+?]|\{\d*,\d*\}")
_MOST_STEPS = 5_000_000


def free_choices(pattern: str) -> int | None:
    """The number of choices that multiply when the pattern is searched for: quantifiers, groups of alternatives, where to begin.

    None when that is no bound, because groups are repeated or looked at from elsewhere, or when it is no pattern at all.
    """
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None
    plain = _ESCAPE_OR_CLASS.sub("x", pattern).replace("(?:", "(")
    if "(?" in plain or re.search(r"\)[*+?{]", plain) or re.search(r"\\[1-9]", pattern):
        return None
    groups = plain.count("(") if "|" in plain else 0
    begins_anywhere = not plain.startswith("^") or "|" in plain
    return len(_QUANTIFIER.findall(_FIXED_COUNT.sub("", plain))) + groups + begins_anywhere


def is_soon_matched(pattern: str, text: str) -> bool:
    """Whether a pattern with a bound can be searched for in a text in some tens of milliseconds."""
    steps: int = len(text) ** (free_choices(pattern) or 0)
    return steps <= _MOST_STEPS
