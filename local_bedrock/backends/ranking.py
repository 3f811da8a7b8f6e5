"""Facts and files of a prompt, ranked against its question by shared words and by what is fit to be said. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from local_bedrock.backends.facts import Fact
from local_bedrock.backends.fitness import Fitness, when
from local_bedrock.backends.question import parts, subject
from local_bedrock.backends.words import matches, terms, weights

CANDIDATES = 3  # a small model loses its way among more

_NEAR_BEST = 0.85  # of the best score: below it, a candidate is not worth offering beside the best
_HEADING_WEIGHT = 0.6
_PATH_WEIGHT = 0.6
_SYMBOLS_WEIGHT = 0.5
_NAME_BESIDE_FACT = 0.25
_COVERED = 0.4  # what a word still counts that an earlier sentence has said already
_UNNAMED = 0.7  # what a word is worth that is in no name here, against the terms that the code itself uses
_CHANCE = 0.5  # what a single such word is worth where more are asked for
_FLOOR = 0.4  # what words of a part of the question are worth that are hardly any of it
_OTHER_PARTS = 0.5


@dataclass(frozen=True, slots=True)
class Match:
    """How a fact matches the question: what each of the question's words adds, and how fit the fact is to be said at all."""

    by_word: Mapping[str, float]
    fitness: float
    head_start: float


class Ranking:
    """Facts and files of one prompt, ranked against its question."""

    def __init__(self, question: str, facts: Sequence[Fact], paths: Iterable[str], symbols: Mapping[str, str]) -> None:
        listed = list(dict.fromkeys([*paths, *(fact.path for fact in facts)]))
        fitness = Fitness(question, facts, listed)
        question = subject(question)
        weight_of = weights(question, [fact.text for fact in facts])
        self._named = {word for name in (*listed, *symbols.values()) for word in terms(name)}
        self._weight_of = {
            word: weight if word in self._named else _UNNAMED * weight for word, weight in weight_of.items()
        }
        self._parts = [frozenset(terms(part)) for part in parts(question)]
        path_weights = weights(question, [*listed, *symbols.values()])
        by_path = dict(zip(listed, matches(path_weights, listed), strict=True))
        by_symbols = dict(zip(symbols, matches(path_weights, list(symbols.values())), strict=True))
        by_words = matches(self._weight_of, [fact.text for fact in facts])
        by_heading = matches(self._weight_of, [fact.heading for fact in facts])
        self._matches = {
            fact: Match(
                _sum((1.0, words), (_HEADING_WEIGHT, heading), (_PATH_WEIGHT, by_path[fact.path])),
                fitness.of_fact(fact),
                fitness.head_start(fact),
            )
            for fact, words, heading in zip(facts, by_words, by_heading, strict=True)
        }
        self._path_scores = {
            path: fitness.of_path(path)
            * self._value(_sum((1.0, by_path[path]), (_SYMBOLS_WEIGHT, by_symbols.get(path, {}))))
            for path in listed
        }
        by_name = dict(self._path_scores)
        for fact in facts:
            score = self.score(fact) + _NAME_BESIDE_FACT * by_name[fact.path]
            self._path_scores[fact.path] = max(self._path_scores[fact.path], score)

    def score(self, fact: Fact, covered: Collection[str] = ()) -> float:
        """Higher is better; 0 where no word is shared. Words that were covered already count less."""
        match = self._matches[fact]
        return match.head_start + match.fitness * self._value(match.by_word, covered)

    def words(self, fact: Fact) -> Collection[str]:
        """Stemmed words of the question that a fact has."""
        return self._matches[fact].by_word.keys()

    def path_score(self, path: str) -> float:
        """How well a file matches: by its name, by what it defines, by the best of what is known of it."""
        return self._path_scores.get(path, 0.0)

    def tells_change(self, fact: Fact) -> bool:
        """Whether a fact says what changed and when, in what the question is about."""
        return bool(when(fact)) and self.score(fact) > 0

    def says_enough(self, fact: Fact) -> bool:
        """Whether a fact has more of the question than a single word that may stand there by chance."""
        words = self.words(fact)
        return len(words) >= min(2, len(self._weight_of)) or not self._named.isdisjoint(words)

    def share_of_question(self, words: Collection[str]) -> float:
        """How much of the question these of its words are, from 0 to 1."""
        whole = sum(self._weight_of.values())
        return sum(self._weight_of[word] for word in words if word in self._weight_of) / whole if whole else 0.0

    def _value(self, by_word: Mapping[str, float], covered: Collection[str] = ()) -> float:
        """The worth of matched words: those of one part of the question together, and the more of it they are the better."""
        worth = {word: value * (_COVERED if word in covered else 1.0) for word, value in by_word.items()}
        values = []
        for part in self._parts:
            met = [word for word in part if word in by_word]
            if met:
                share = sum(self._weight_of[word] for word in met) / sum(self._weight_of[word] for word in part)
                by_chance = len(part) > len(met) == 1 and met[0] not in self._named
                values.append(
                    sum(worth[word] for word in met) * (_FLOOR + (1 - _FLOOR) * share) * (_CHANCE if by_chance else 1.0)
                )
        return max(values) + _OTHER_PARTS * (sum(values) - max(values)) if values else 0.0


def best_first(scored: Sequence[float]) -> list[int]:
    """Indices of scored candidates, best first; equal ones keep their order."""
    return sorted(range(len(scored)), key=lambda index: -scored[index])


def shortlist(scored: Sequence[float]) -> list[int]:
    """Indices of the few best candidates, best first: those that come near the best one."""
    order = best_first(scored)[:CANDIDATES]
    return [index for index in order if scored[index] >= _NEAR_BEST * scored[order[0]]]


def _sum(*weighted: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for factor, values in weighted:
        for word, value in values.items():
            total[word] = total.get(word, 0.0) + factor * value
    return total
