"""Lexical ranking of short texts against a question (BM25 over stemmed words). Pure and deterministic."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from local_bedrock.backends.extract import Fact

CANDIDATES = 3  # a small model loses its way among more

_NEAR_BEST = 0.7  # of the best score: below it, a candidate is not worth offering beside the best
_PATH_WEIGHT = 0.5
_K1 = 1.2
_B = 0.5
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_IE = re.compile(r"ie[sd]$")
_SUFFIX = re.compile(r"(?:ations?|ments?|ings?|ions?|ers?|ed|es|s|e|y)$")
_DOUBLED = re.compile(r"([b-df-hj-np-tv-z])\1$")
_STOP_WORD = re.compile(
    "a|an|and|are|as|at|be|been|but|by|can|could|did|do|does|for|from|get|had|has|have|how|i|if|in|into|is|it|its|me|my|of|on|"
    "or|our|please|should|show|so|tell|that|the|their|them|then|there|these|they|this|those|to|us|use|used|was|we|were|what|"
    "when|where|which|who|why|will|with|would|you|your|explain|describe|give|find|list|about|any|all|code|codebase"
)


def terms(text: str) -> list[str]:
    """Stemmed words of a text, identifiers and paths split into their parts, without the words every question has."""
    words = (word.lower() for word in _WORD.findall(text))
    return [_stem(word) for word in words if _tells(word)]


def scores(question: str, texts: Sequence[str]) -> list[float]:
    """How well each text matches the question, in the order of the texts; 0 where no word is shared."""
    documents = [Counter(terms(text)) for text in texts]
    asked = dict.fromkeys(terms(question))
    total = len(documents)
    mean_length = sum(sum(document.values()) for document in documents) / total if total else 0.0
    weight_of = {}
    for term in asked:
        containing = sum(term in document for document in documents)
        weight_of[term] = math.log(1 + (total - containing + 0.5) / (containing + 0.5))
    return [_score(document, weight_of, mean_length) for document in documents]


def fact_scores(question: str, facts: Sequence[Fact]) -> list[float]:
    """How well each fact matches: by its words, and less by those of its path."""
    by_words = scores(question, [fact.text for fact in facts])
    by_path = scores(question, [fact.path or "" for fact in facts])
    return [words + _PATH_WEIGHT * path for words, path in zip(by_words, by_path, strict=True)]


def best_first(scored: Sequence[float]) -> list[int]:
    """Indices of scored candidates, best first; equal ones keep their order."""
    return sorted(range(len(scored)), key=lambda index: -scored[index])


def shortlist(scored: Sequence[float]) -> list[int]:
    """Indices of the few best candidates, best first: those that come near the best one."""
    order = best_first(scored)[:CANDIDATES]
    return [index for index in order if scored[index] >= _NEAR_BEST * scored[order[0]]]


def shared_words(question: str, text: str) -> list[str]:
    """The question's own words that the text has too, each once, in the question's order."""
    found = set(terms(text))
    words = (word.lower() for word in _WORD.findall(question))
    return list(dict.fromkeys(word for word in words if _tells(word) and _stem(word) in found))


def _score(document: Counter[str], weight_of: dict[str, float], mean_length: float) -> float:
    length = sum(document.values())
    norm = _K1 * (1 - _B + _B * length / mean_length) if mean_length else _K1
    return sum(weight * document[term] * (_K1 + 1) / (document[term] + norm) for term, weight in weight_of.items())


def _tells(word: str) -> bool:
    return len(word) > 1 and not _STOP_WORD.fullmatch(word)


def _stem(word: str) -> str:
    """The word without its ending, roughly: `retries`, `retried`, `retrying` and `retry` are the same."""
    stem = _SUFFIX.sub("", _IE.sub("y", word))
    if len(stem) <= 2:
        return word
    return _DOUBLED.sub(r"\1", stem.removesuffix("y"))
