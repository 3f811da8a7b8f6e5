"""What stands in a prompt: the question, the facts of the data it was given, and the files they come from. Pure.

Prompts fence their material as `<data name="..." source="...">`; tool results are material too. All of it is text that others
wrote, so the reading is lenient: what is not recognised is left out. Time is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from local_bedrock.backends.facts import Fact, FactReader
from local_bedrock.backends.paths import path_in
from local_bedrock.backends.prose import shorten
from local_bedrock.calls import ModelCall, Text

MAX_QUESTION_CHARS = 300

_TAG = re.compile(r"<data\b(?P<attributes>[^<>]*)>|</data>")
# A tag of a fence that stands in fenced text; a reader takes it for what it was.
_DEFUSED_TAG = re.compile(r"&lt;(?=\s*/?\s*data\b)", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']")
_QUESTION_NAME = re.compile(r"(user_?)?(query|question|request)", re.IGNORECASE)
# Fences that say how to work and not what to answer from; the question is one of them.
_NOT_MATERIAL = re.compile(
    r"(user_?)?(query|question|request)|limits?|parameters?|now|date.*|time.*|.*cost|snapshot.*|workspace|response_format|tool_call",
    re.IGNORECASE,
)
_RESULT_NAME = "tool_result"
_QUESTION_LABEL = re.compile(
    r"^[^\w\n]*(?:user )?(?:query|question)\W*:\s*(?P<question>\S.*)$", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Material:
    """What a prompt gives to answer from, in the order it stands there, tool results first.

    `found` are the facts of tool results, `given` those of the prompt itself, none twice. `paths` are the files that the data is
    about; `symbols` the names that they are said to define, by path.
    """

    question: str
    found: tuple[Fact, ...]
    given: tuple[Fact, ...]
    paths: tuple[str, ...]
    symbols: dict[str, str]

    @property
    def facts(self) -> tuple[Fact, ...]:
        return self.found + self.given


@dataclass(frozen=True, slots=True)
class _Fence:
    name: str
    source: str
    body: str


def extract(call: ModelCall) -> Material:
    """The material of a call."""
    texts = [block.text for block in call.system if isinstance(block, Text)]
    texts += [block.text for m in call.messages for block in m.content if isinstance(block, Text) and m.role == "user"]
    fences = [fence for text in texts for fence in _split(text)[0]]
    questions = [fence.body for fence in fences if _QUESTION_NAME.fullmatch(fence.name)]
    question = questions[0] if questions else _plain_question(call)
    results = [
        _Fence(_RESULT_NAME, "", result.text) for result in reversed(call.all_tool_results) if not result.is_error
    ]
    results = [inner for result in results for inner in _split(result.body)[0] or [result]]
    results += [fence for fence in fences if fence.name == _RESULT_NAME]
    given = [fence for fence in fences if not _NOT_MATERIAL.fullmatch(fence.name) and fence.name != _RESULT_NAME]
    reader = FactReader(fence.body for fence in (*results, *given))
    found = reader.facts([(fence.body, path_in(fence.source)) for fence in results])
    told = reader.facts([(fence.body, path_in(fence.source) or path_in(fence.name)) for fence in given])
    known = {fact.text for fact in found}
    return Material(
        question=shorten(" ".join(question.split()), MAX_QUESTION_CHARS),
        found=tuple(found),
        given=tuple(fact for fact in told if fact.text not in known),
        paths=tuple(reader.paths),
        symbols=reader.symbols,
    )


def _split(text: str) -> tuple[list[_Fence], str]:
    """The fences of a text, and the text outside of them."""
    fences = []
    outside = []
    opened: re.Match[str] | None = None
    end = 0
    for tag in _TAG.finditer(text):
        if opened is None and tag["attributes"] is not None:
            outside.append(text[end : tag.start()])
            opened = tag
        elif opened is not None and tag["attributes"] is None:
            given = dict(_ATTRIBUTE.findall(opened["attributes"]))
            body = _DEFUSED_TAG.sub("<", text[opened.end() : tag.start()])
            fences.append(_Fence(given.get("name", ""), given.get("source", ""), body))
            end = tag.end()
            opened = None
    return fences, "".join([*outside, text[end:]] if opened is None else outside)


def _plain_question(call: ModelCall) -> str:
    """The question where it is not fenced: in the first user message, after a label if there is one."""
    for message in call.messages:
        text = "\n".join(block.text for block in message.content if isinstance(block, Text))
        outside = _split(text)[1].strip()
        if message.role == "user" and outside:
            labelled = _QUESTION_LABEL.search(outside)
            return labelled["question"] if labelled else outside
    return ""
