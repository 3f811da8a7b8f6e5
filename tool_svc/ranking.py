"""Which files matter for a question: full-text scores, and what the repository's own shape and history add to them."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tool_svc.index.links import Links
from tool_svc.index.meanings import Meanings
from tool_svc.index.view import Accepts, IndexedFile, IndexView, match_any
from tool_svc.index.words import question_words

# Weights of the columns of the full-text tables, in their order.
CONTENT_WEIGHTS = (3.0, 4.0, 2.0, 1.0)  # intent, symbols, headings, body
NAME_WEIGHTS = (3.0, 1.0)  # name, directories

# What each signal can add to a score, the best full-text match counting 1.
SIGNAL_WEIGHTS: Mapping[str, float] = {
    "content": 1.0,
    "name": 0.5,
    "history": 0.8,
    "links": 0.25,
    "recency": 0.35,
    "meaning": 0.5,
}

CANDIDATES = 400
SIMILAR_COMMITS = 60
LINKED_FROM = 15
# Among so many of the best the meaning decides, too; each costs a vector when it is first among them.
COMPARED_MEANINGS = 60
RECENT_COMMITS = 400
RECENT_CHANGES = 5_000
RECENCY_HALF_LIFE = 40.0
# A word in more entries than this says too little to be worth its cost.
MAX_MATCHES = 12_000


@dataclass(frozen=True, slots=True)
class RankedFile:
    """A file and why it stands where it does: `signals` add up to `score`."""

    file: IndexedFile
    score: float
    signals: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_relevant(self) -> bool:
        """Whether it has to do with the question: of recent work alone nobody knows, and everything is near it in meaning."""
        return not self.signals.keys() <= {"recency", "meaning"}


def rank(view: IndexView, question: str, accepts: Accepts, meanings: Meanings | None = None) -> list[RankedFile]:
    """The accepted files that anything speaks for, the most relevant for `question` first. The other files have no part in it."""
    files = view.files()
    words = question_words(question)
    signals = {
        "content": _content_scores(view, words, accepts),
        "name": _name_scores(view, words, accepts),
        "history": _history_scores(view, words, accepts),
        "recency": _recency_scores(view),
    }
    scores: dict[str, dict[str, float]] = defaultdict(dict)

    def add(signal: str, values: Mapping[str, float]) -> None:
        accepted = {path: value for path, value in values.items() if accepts(path)}
        for path, value in _scaled(accepted, SIGNAL_WEIGHTS[signal]).items():
            scores[path][signal] = value

    for signal, values in signals.items():
        add(signal, values)

    def best(count: int) -> list[IndexedFile]:
        return [files[path] for path in heapq.nlargest(count, scores, key=lambda path: sum(scores[path].values()))]

    add("links", _link_scores(view, best(LINKED_FROM), files))
    if meanings is not None:
        add("meaning", _meaning_scores(view, meanings, question, best(COMPARED_MEANINGS)))
    ranked = [RankedFile(files[path], sum(added.values()), added) for path, added in scores.items()]
    return sorted(ranked, key=lambda entry: (-entry.score, entry.file.path))


def _content_scores(view: IndexView, words: list[str], accepts: Accepts) -> dict[str, float]:
    telling = _telling(view, "words", words)
    return dict(view.search_contents(match_any(telling), CONTENT_WEIGHTS, accepts, CANDIDATES)) if telling else {}


def _name_scores(view: IndexView, words: list[str], accepts: Accepts) -> dict[str, float]:
    telling = _telling(view, "names", words)
    return dict(view.search_names(match_any(telling), NAME_WEIGHTS, accepts, CANDIDATES)) if telling else {}


def _history_scores(view: IndexView, words: list[str], accepts: Accepts) -> dict[str, float]:
    """Files that commits with similar messages changed: a question in the words of past work is about the files of that
    work.
    """
    telling = _telling(view, "messages", words)
    if not telling:
        return {}
    similar = view.search_changes(match_any(telling), accepts, SIMILAR_COMMITS)
    paths = view.changed_paths(change_id for change_id, _ in similar)
    scores: dict[str, float] = defaultdict(float)
    for change_id, score in similar:
        changed = paths.get(change_id, [])
        for path in changed:
            scores[path] += score * score / math.sqrt(len(changed))
    return {path: math.sqrt(value) for path, value in scores.items()}


def _recency_scores(view: IndexView) -> dict[str, float]:
    """Files that are being worked on: each recent change counts, half as much every `RECENCY_HALF_LIFE` commits."""
    scores: dict[str, float] = defaultdict(float)
    for path, age in view.change_ages(RECENT_COMMITS, RECENT_CHANGES):
        scores[path] += 0.5 ** (age / RECENCY_HALF_LIFE)
    return {path: math.log1p(value) for path, value in scores.items()}


def _link_scores(view: IndexView, best: list[IndexedFile], files: Mapping[str, IndexedFile]) -> dict[str, float]:
    """Files that the best ones import, test, document or refer to; the better the file that refers, the more."""
    links = Links(files)
    scores: dict[str, float] = defaultdict(float)
    facts = view.facts(best)
    for position, file in enumerate(best):
        targets = links.targets(file.path, facts[file.path])
        for target in targets:
            scores[target] += 1.0 / (1 + position) / math.sqrt(len(targets))
    return scores


def _meaning_scores(view: IndexView, meanings: Meanings, question: str, best: list[IndexedFile]) -> dict[str, float]:
    """How near what these files say of themselves is to the question."""
    facts = view.facts(best)
    texts = ["\n".join([said.header.intent, *said.headings, " ".join(said.symbols)]) for said in facts.values()]
    return dict(zip(facts, meanings.similarities(question, texts), strict=True))


def _telling(view: IndexView, table: str, words: Iterable[str]) -> list[str]:
    """The words that tell entries apart, rarest first, as many as can be looked up in reasonable time."""
    counts = view.document_frequencies(table, words)
    chosen: list[str] = []
    matches = 0
    for word in sorted((word for word, count in counts.items() if count), key=lambda word: counts[word]):
        matches += counts[word]
        if chosen and matches > MAX_MATCHES:
            break
        chosen.append(word)
    return chosen


def _scaled(values: Mapping[str, float], weight: float) -> dict[str, float]:
    """`values` with the highest at `weight`."""
    highest = max(values.values(), default=0.0)
    return {path: value * weight / highest for path, value in values.items()} if highest > 0 else {}
