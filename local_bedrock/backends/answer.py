"""An answer in words: a few sentences of the data, each with the file it comes from. Pure but for the chooser."""

from __future__ import annotations

from local_bedrock.backends.choosing import Choose
from local_bedrock.backends.extract import Material
from local_bedrock.backends.facts import Fact
from local_bedrock.backends.fitness import is_changelog
from local_bedrock.backends.question import asks_about_change, asks_for_overview
from local_bedrock.backends.ranking import Ranking, shortlist

ANSWER_PASSAGES = 3
NOTHING_GIVEN = "The data I was given says nothing about this question."
NEAREST = "Nothing answers this directly; nearest in what I was given:"

# A further passage is said if it matches the question about as well as the best one, or adds this much to what has been said.
_AS_GOOD = 0.75
_TELLING = 0.5
_SAME_FILE = 0.85
_ENOUGH = 0.3  # an answer that holds less of the question's words is announced as one that may not be one


def answer(material: Material, ranking: Ranking, choose: Choose) -> str:
    """At most three passages, of tool results if there are any. Each further one is to say what the others have not."""
    left = list(material.found or material.given)
    if not left:
        return NOTHING_GIVEN
    about_change = asks_about_change(material.question)
    if about_change:
        left = [fact for fact in left if ranking.tells_change(fact)] or left
    said: list[Fact] = []
    covered: set[str] = set()
    best = max(ranking.score(fact) for fact in left)
    while left and len(said) < ANSWER_PASSAGES:
        files = {fact.path for fact in said}
        gain_of = {fact: ranking.score(fact, covered) * (_SAME_FILE if fact.path in files else 1.0) for fact in left}
        telling = [fact for fact in left if ranking.score(fact) >= _AS_GOOD * best or gain_of[fact] >= _TELLING * best]
        if said and (not telling or not best):
            break
        near = [telling[index] for index in shortlist([gain_of[fact] for fact in telling])]
        chosen = choose("Answer: ", [fact.text for fact in near])
        fact = next(fact for fact in near if fact.text == chosen)
        said.append(fact)
        if not about_change:  # one change does not tell what another has told, though their words be the same
            covered.update(ranking.words(fact))
        left = [other for other in left if ranking.says_enough(other) and not _say_the_same(fact.text, other.text)]
    words = " ".join(_sentence(fact, with_time=about_change) for fact in said)
    met = {word for fact in said for word in ranking.words(fact)}
    is_answer = best and (asks_for_overview(material.question) or ranking.share_of_question(met) >= _ENOUGH)
    return words if is_answer else f"{NEAREST} {words}"


def _say_the_same(one: str, other: str) -> bool:
    return one in other or other in one


def _sentence(fact: Fact, *, with_time: bool) -> str:
    when = (fact.date or (fact.heading if is_changelog(fact.path) else "")) if with_time else ""
    body = fact.text.rstrip(" .;:")
    body = body if when else body[:1].upper() + body[1:]
    return f"{when}{': ' if when else ''}{body}{f' (`{fact.path}`)' if fact.path else ''}."
