"""Stemmed words, and how well texts match a question by them (BM25). Pure and deterministic."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

_K1 = 0.8
_B = 0.4
_UNSEEN = 100  # texts without any of the words are taken to exist beside those seen: in a few, rare words say little
_IDENTIFIER_WEIGHT = 0.5  # what a part of a name counts in a sentence, against a word: names are mentioned by the way
_TOKEN = re.compile(r"[\w.]+")
_IDENTIFIER = re.compile(r"\w[._]\w|[a-z][A-Z]")
_WORD = re.compile(r"[A-Z]+(?![^\W\dA-Z_])|[A-Z]?[^\W\dA-Z_]+|\d+")
_IE = re.compile(r"ie[sd]$")
_SUFFIX = re.compile(r"(?:ations?|ments?|ings?|ions?|ers?|ed|es|s|e|y)$")
_DOUBLED = re.compile(r"([b-df-hj-np-tv-z])\1$")
_STOP_WORD = re.compile(
    "a|about|all|an|and|any|are|as|at|be|been|before|being|but|by|can|code|codebase|could|describe|did|do|does|doing|done|each|exactly|"
    "explain|find|for|from|get|gets|give|go|goes|got|had|happen|happens|happened|has|have|how|i|if|implement|implemented|implements|in|"
    "into|is|it|its|just|keeps?|kept|lately|let|like|list|made|make|makes|me|mean|means|mechanism|more|most|much|my|no|not|of|on|only|or|"
    "other|our|out|please|recent|recently|should|show|so|some|such|take|taken|takes|tell|than|that|the|their|them|then|there|these|they|"
    "thing|this|those|to|up|us|use|used|uses|using|versions?|via|was|way|we|were|what|when|where|whether|which|who|why|will|with|would|"
    "you|your"
)


def terms(text: str) -> list[str]:
    """Stemmed words of a text, identifiers and paths split into their parts, without the words every question has."""
    words = (word.lower() for word in _WORD.findall(text))
    return [_stem(word) for word in words if _tells(word)]


def scores(question: str, texts: Sequence[str]) -> list[float]:
    """How well each text matches the question, in the order of the texts; 0 where no word is shared."""
    return [sum(match.values()) for match in matches(weights(question, texts), texts)]


def shared_words(question: str, text: str) -> list[str]:
    """The question's own words that the text has too, each once, in the question's order."""
    found = set(terms(text))
    words = (word.lower() for word in _WORD.findall(question))
    return list(dict.fromkeys(word for word in words if _tells(word) and _stem(word) in found))


def weights(question: str, texts: Sequence[str]) -> dict[str, float]:
    """What each word of the question is worth among these texts: the more, the fewer of them have it."""
    containing = Counter(word for text in texts for word in set(terms(text)))
    total = len(texts) + _UNSEEN
    return {
        word: math.log(1 + (total - containing[word] + 0.5) / (containing[word] + 0.5))
        for word in dict.fromkeys(terms(question))
    }


def matches(weight_of: Mapping[str, float], texts: Sequence[str]) -> list[dict[str, float]]:
    """What each text has of weighted words: its share in the BM25 score, by word."""
    documents = [_counted(text) for text in texts]
    lengths = [sum(document.values()) for document in documents]
    mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
    return [
        {
            word: weight * document[word] * (_K1 + 1) / (document[word] + _K1 * (1 - _B + _B * length / mean))
            for word, weight in weight_of.items()
            if word in document
        }
        for document, length in zip(documents, lengths, strict=True)
    ]


def _counted(text: str) -> dict[str, float]:
    counts: dict[str, float] = {}
    for token in _TOKEN.findall(text):
        weight = _IDENTIFIER_WEIGHT if _IDENTIFIER.search(token) else 1.0
        for word in terms(token):
            counts[word] = counts.get(word, 0.0) + weight
    return counts


def _tells(word: str) -> bool:
    return (len(word) > 1 or word.isdigit()) and not _STOP_WORD.fullmatch(word)


def _stem(word: str) -> str:
    """The word without its ending, roughly: `retries`, `retried`, `retrying` and `retry` are the same."""
    stem = _SUFFIX.sub("", _IE.sub("y", word))
    if len(stem) <= 2:
        return word
    return _DOUBLED.sub(r"\1", stem.removesuffix("y"))
