"""What kind of question is asked, told by its words. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from local_bedrock.backends.paths import paths_in

_CHANGE = re.compile(
    r"\b(chang\w*|histor\w*|recent\w*|lately|latest|newest|commits?|since|evol\w+|introduced|regress\w*|releases?|released)\b|"
    r"\bwhen (?:was|were|did)\b|\bwhat(?:'s| is) new\b",
    re.IGNORECASE,
)
_LATELY = re.compile(r"\b(lately|recent\w*|latest|newest|last|new)\b", re.IGNORECASE)
_ADVICE = re.compile(
    r"\b(architect\w*|design\w*|should (?:i|we|it|one)|advi[cs]e|recommend\w*|trade-?offs?|alternatives?|best way|improve\w*)\b|"
    r"\bhow (?:would|could|can|should|do) (?:i|we|one) (?:add|build|change|extend|replace|split|make)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(r"\b(where|which (?:files?|modules?|class\w*|functions?|part|places?))\b", re.IGNORECASE)
_OVERVIEW = re.compile(
    r"\bwhat (?:is|does|do) (?:this|the|it)\b(?: (?:project|repo\w*|package|library|code\w*|app\w*|program|system))?"
    r"(?: (?:do|for|about|all about))*\W*$|\b(?:overview|summar\w+|introduc\w+)\b",
    re.IGNORECASE,
)
_NEXT_PART = re.compile(r"[?;.]\s+|,?\s+and\s+(?=(?:how|where|what|when|why|which|who)\b)", re.IGNORECASE)


def subject(question: str) -> str:
    """The question without the words that only say of what kind it is; of a file that it names the bare name stays."""
    for path in paths_in(question):
        question = question.replace(path, PurePosixPath(path).stem)
    return _CHANGE.sub(" ", question)


def parts(question: str) -> list[str]:
    """The questions that are asked in one."""
    return [part for part in _NEXT_PART.split(question) if part.strip()] or [question]


def asks_for_place(question: str) -> bool:
    """Whether the files themselves are the answer."""
    return _PLACE.search(parts(question)[0]) is not None


def asks_for_overview(question: str) -> bool:
    """Whether it is about the whole and not about a part."""
    return _OVERVIEW.search(question) is not None


def asks_about_change(question: str) -> bool:
    """Whether it is about what was, and not about what is."""
    return _CHANGE.search(question) is not None


def asks_about_late_change(question: str) -> bool:
    """Whether the newest changes matter most."""
    return _LATELY.search(question) is not None and asks_about_change(question)


def asks_for_advice(question: str) -> bool:
    """Whether something is to be decided or designed."""
    return _ADVICE.search(question) is not None
