"""Words of names, text and questions: identifiers split at their joints, the way people ask about them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# In camelCase a word starts at an upper-case letter after a lower-case one, and at the last upper-case letter of a run
# (HTTPServer).
_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CLASSES = (
    bytes(
        ord("A" if char.isupper() else "a" if char.isalnum() or char == "_" else " ") for char in map(chr, range(128))
    )
    + b" " * 128
)
_LONGEST_WORD = 100
_COMPOUND = re.compile(r"\b\w*[a-z0-9][A-Z]\w*")
_WORD = re.compile(r"[^\W_]+")

# Words of questions and commit messages that name nothing in a repository.
STOP_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being below between both but
    by can cannot could did do does doing don down during each few for from further had has have having he her
    here hers him his how i if in into is isn it its just let lets like me more most my no nor not now of off on
    once only or other our ours out over own please same she should so some such than that the their theirs them
    then there these they this those through to too under until up us very was we were what when where which while
    who whom why will with would you your yours tell show explain describe find give list whether instead make
    makes made using use used uses via""".split()  # noqa: SIM905
)


def split_compounds(text: str) -> str:
    """`text` with its camelCase words split by spaces."""
    return _JOINT.sub(" ", text)


def compounds_of(text: str) -> set[str]:
    """The distinct camelCase words of `text`."""
    # A search over character classes runs at memory speed; a regular expression would cost more than all the rest.
    classes = text.encode("ascii", "replace").translate(_CLASSES)
    found = set()
    joint = classes.find(b"aA")
    while joint >= 0:
        end = classes.find(b" ", joint)
        end = len(classes) if end < 0 else end
        if end - joint < _LONGEST_WORD:
            found.add(text[classes.rfind(b" ", 0, joint) + 1 : end])
        joint = classes.find(b"aA", end)
    return found


def words_of(text: str) -> list[str]:
    """Lower-case words of `text` in order: camelCase and snake_case split, punctuation dropped."""
    return [word.lower() for word in _WORD.findall(split_compounds(text))]


def question_words(question: str, *, limit: int = 48) -> list[str]:
    """The distinct words of a question that can name something, in order; compounds also as a whole."""
    seen: dict[str, None] = {}
    for word in words_of(question):
        if word not in STOP_WORDS and (len(word) > 1 or not word.isascii()):
            seen.setdefault(word)
    for compound in _COMPOUND.findall(question):
        seen.setdefault(compound.lower())
    return list(seen)[:limit]


def name_words(names: Iterable[str]) -> str:
    """Names as text to index: as they are, and split at their joints where they have some."""
    whole = " ".join(names)
    split = split_compounds(whole)
    return whole if split == whole else f"{whole} {split}"
