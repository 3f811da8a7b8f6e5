"""How fit a fact or a file is to be named in an answer, whatever words it shares with the question. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from local_bedrock.backends.facts import Fact
from local_bedrock.backends.paths import named_among, paths_in
from local_bedrock.backends.prose import is_complete
from local_bedrock.backends.question import asks_about_change, asks_about_late_change, asks_for_overview, asks_for_place
from local_bedrock.backends.source_text import is_document
from local_bedrock.backends.words import terms

_FRAGMENT = 0.8
_LEAD = 1.8  # the first that a file says is what it is for
_NAMED = 2.0
_NO_CHANGE = 0.4
_FALL, _LATE_FALL = 0.1, 0.6  # what the oldest change is worth less than the newest
_FRONT = re.compile(r"README[^/]*$|(?:src/[^/]+/)?__init__\.py$", re.IGNORECASE)
_FRONT_WORTH = 10.0
_ASIDE = 0.6
# Files that speak about others by the way, unless the question is about them.
_ASIDES = re.compile(
    r"(?:^|/)(?:tests?|testing|examples?|bench\w*|vendor|third_party|licen[cs]e\w*|authors|contribut\w*|changes|changelog|history|news|"
    r"migrations|prompts?|\.github)(?:[/._]|$)|_pb2|\.min\.|generated",
    re.IGNORECASE,
)
_CHANGELOGS = re.compile(r"(?:^|/)(?:changes|\w*changelog|history|news|releases?)\b[^/]*$", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_RELEASE = re.compile(r"\d{1,6}(?:\.\d{1,6})+")


class Fitness:
    """How fit facts and files are to be named in an answer to a question, whatever their words."""

    def __init__(self, question: str, facts: Iterable[Fact], paths: Sequence[str]) -> None:
        self._named = frozenset(named_among(paths_in(question), paths))
        self._asked = set(terms(question))
        self._of_change = asks_about_change(question)
        self._of_place = asks_for_place(question)
        newest_first = sorted({moment for fact in facts if (moment := when(fact))}, reverse=True)
        falling = _LATE_FALL if asks_about_late_change(question) else _FALL
        self._of_time = {moment: 1 - falling * at / len(newest_first) for at, moment in enumerate(newest_first)}
        self._of_whole = asks_for_overview(question)
        self._leads: dict[str, Fact] = {}
        for fact in facts:
            if _FRONT.match(fact.path) or not is_document(fact.path):
                self._leads.setdefault(fact.path, fact)

    def of_fact(self, fact: Fact) -> float:
        moment = when(fact)
        fitness = self.of_path(fact.path) * (0.5 + 0.5 * fact.relevance)
        if not fact.date and not is_complete(fact.text):
            fitness *= _FRAGMENT
        if fact.path in self._named:
            fitness *= _NAMED
        if self._of_change:
            return fitness * (self._of_time[moment] if moment else _NO_CHANGE)
        is_lead = self._leads.get(fact.path) is fact
        return fitness * (_LEAD if is_lead and (self._of_place or fact.path in self._named) else 1.0)

    def head_start(self, fact: Fact) -> float:
        """What a fact is worth whatever its words: to a question about the whole the first that its front page says."""
        return _FRONT_WORTH if self._of_whole and _FRONT.match(fact.path) and self._leads[fact.path] is fact else 0.0

    def of_path(self, path: str) -> float:
        aside = _ASIDES.search(path)
        if self._of_change and is_changelog(path):
            return 1.0
        return _ASIDE if aside and not set(terms(aside[0])) & self._asked else 1.0


def is_changelog(path: str) -> bool:
    """Whether a file tells what has changed, by its name."""
    return _CHANGELOGS.search(path) is not None


def when(fact: Fact) -> tuple[int, ...]:
    """What orders changes in time: the day, else the release they stand under; empty for what tells no change."""
    stated = fact.date or (match[0] if (match := _DATE.search(fact.heading)) else "")
    if stated:
        return tuple(int(number) for number in stated.split("-"))
    release = _RELEASE.search(fact.heading) if is_changelog(fact.path) else None
    return tuple(int(number) for number in release[0].split(".")) if release else ()
