"""What the bundled model is asked to decide, and what becomes of it: tool calls, schema-shaped JSON, or a short answer.

The model is tiny, so it only chooses, and only among the few best-ranked candidates that stand in its data: a tool, a path, a
sentence. The shape around the choices is made here, without it. Pure but for `Choose`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from typing import TypeAlias

from local_bedrock.backends.extract import Material, path_in
from local_bedrock.backends.fill import LESS_RICH, RICH, Filler
from local_bedrock.backends.ranking import CANDIDATES, best_first, fact_scores, scores, shortlist
from local_bedrock.calls import ModelCall, OutputBlock, Text, Tool, ToolUse, compact_json

# Choose(label, candidates): the one candidate that the model would write after the label. At least one is given.
Choose: TypeAlias = Callable[[str, Sequence[str]], str]
# ChooserFor(lines): a Choose whose model has read the question and these lines, most important first.
ChooserFor: TypeAlias = Callable[[Sequence[str]], Choose]
# Count(text): the tokens it has.
Count: TypeAlias = Callable[[str], int]

ANSWER_SENTENCES = 3
PLANNED_TOOLS = 2
NOTHING_GIVEN = "The data I was given says nothing about this question."
NEAREST = "No file names this directly; nearest in what I was given:"

_INPUT_PROPERTIES = frozenset({"query", "question", "path", "paths", "file_path", "file_paths"})
_FILE_PROPERTIES = frozenset({"path", "paths", "file_path", "file_paths"})
_FACT_LINES = 6
_TELLING = 0.4  # a sentence that matches the question less than this, against the best one, is not said
# What a question says when it is of a special kind, and the tools of that kind, by name.
_CUES = (
    (
        re.compile(
            r"\b(chang|histor|recent|latest|commit|when|since|version|release|evol|introduc|added)", re.IGNORECASE
        ),
        re.compile(r"change|history", re.IGNORECASE),
    ),
    (
        re.compile(
            r"\b(architect|design|should|advi[cs]e|recommend|trade-?off|alternative|best way|improve)", re.IGNORECASE
        ),
        re.compile(r"architect|expert|advi[cs]e", re.IGNORECASE),
    ),
)


def decide(call: ModelCall, material: Material, chooser_for: ChooserFor, count: Count) -> list[OutputBlock]:
    """The blocks of the answer, before any limit is applied. JSON is written shorter where the call allows few tokens."""
    choice = call.tool_choice
    if choice.name is not None:
        tool = next(tool for tool in call.offered_tools if tool.name == choice.name)
        return [_tool_use(tool, material, chooser_for, count, call.max_tokens)]
    answering = [tool for tool in call.offered_tools if not _takes_input(tool)]
    asking = [tool for tool in call.offered_tools if _takes_input(tool) and not _reads_files(tool)]
    if answering and (call.all_tool_results or (material.facts and not asking)):
        return [_tool_use(answering[0], material, chooser_for, count, call.max_tokens)]
    if call.offered_tools and (choice.mode == "any" or not call.all_tool_results):
        planned = _plan(
            [tool for tool in call.offered_tools if tool not in answering],
            material,
            chooser_for,
            must_call=choice.mode == "any",
        )
        if planned:
            each = call.max_tokens // len(planned)
            return [_tool_use(tool, material, chooser_for, count, each) for tool in planned]
    if choice.mode == "any":
        return [_tool_use((*answering, *call.offered_tools)[0], material, chooser_for, count, call.max_tokens)]
    return [Text(_answer(material, chooser_for))]


def _takes_input(tool: Tool) -> bool:
    """Whether a tool asks for something (a query, paths); one that does not takes the answer itself."""
    properties = tool.input_schema.get("properties")
    return isinstance(properties, dict) and (not properties or not _INPUT_PROPERTIES.isdisjoint(properties))


def _reads_files(tool: Tool) -> bool:
    properties = tool.input_schema.get("properties")
    return isinstance(properties, dict) and not _FILE_PROPERTIES.isdisjoint(properties)


def _plan(tools: Sequence[Tool], material: Material, chooser_for: ChooserFor, *, must_call: bool) -> list[Tool]:
    """The tools to call: the best of those that take a query, and what reads files if the question names one."""
    asking = [tool for tool in tools if not _reads_files(tool)]
    reading = [tool for tool in tools if _reads_files(tool)]
    if not asking:
        return reading[:1] if must_call or not material.facts else []
    label_of = _short_labels(asking)
    left = _suited(asking, material.question)
    choose = chooser_for([f"{label_of[tool.name]}: {_first_sentence(tool.description)}" for tool in left])
    picked: list[Tool] = []
    while left and len(picked) < PLANNED_TOOLS:
        labels = [label_of[tool.name] for tool in left[:CANDIDATES]]
        chosen = labels.index(choose("Best source: ", labels))
        picked.append(left.pop(chosen))
    return picked + (reading[:1] if path_in(material.question) else [])


def _suited(tools: Sequence[Tool], question: str) -> list[Tool]:
    """Tools worth asking, best first: one for a special kind of question only if the question is of that kind."""
    told = [f"{tool.name} {tool.description}" for tool in tools]
    cued = [[cue.search(question) is not None for cue, kind in _CUES if kind.search(tool.name)] for tool in tools]
    order = best_first(scores(question, told))
    return sorted(
        (tools[index] for index in order if all(cued[index]) or not any(all(cues) for cues in cued)),
        key=lambda tool: not any(cued[tools.index(tool)]),
    )


def _short_labels(tools: Sequence[Tool]) -> dict[str, str]:
    """Tool names without the words all of them begin with: the model tells short names apart better, and sooner."""
    split = [tool.name.split("_") for tool in tools]
    shared = 0
    while len(split) > 1 and all(len(words) > shared + 1 and words[shared] == split[0][shared] for words in split):
        shared += 1
    return {"_".join(words): "_".join(words[shared:]) for words in split}


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;:])\s", text.strip(), maxsplit=1)[0][:120]


def _tool_use(tool: Tool, material: Material, chooser_for: ChooserFor, count: Count, max_tokens: int) -> ToolUse:
    """A call of the tool whose JSON has at most `max_tokens`, if it can be said in that many."""
    choose = chooser_for(_fact_lines(material))
    written = ""
    for richness in (RICH, *LESS_RICH):
        filler = Filler(
            tool.input_schema, material, choose, free_text_is_question=_takes_input(tool), richness=richness
        )
        written = compact_json(filler.value())
        if count(tool.name) + count(written) <= max_tokens:
            break
    return ToolUse(f"tooluse_{uuid.uuid4().hex[:22]}", tool.name, written)


def _answer(material: Material, chooser_for: ChooserFor) -> str:
    """A few sentences of the data, each with the file it comes from."""
    if not material.facts:
        return NOTHING_GIVEN
    scored = fact_scores(material.question, material.facts)
    score_of = dict(zip(material.facts, scored, strict=True))
    left = [material.facts[index] for index in best_first(scored)]
    best = score_of[left[0]]
    choose = chooser_for(_fact_lines(material))
    said = [] if best else [NEAREST]
    named: set[str | None] = set()
    for _ in range(ANSWER_SENTENCES):
        telling = [fact for fact in left if score_of[fact] >= _TELLING * best]
        fresh = [fact for fact in telling if fact.path not in named] or telling
        if not fresh:
            break
        near = [fresh[index] for index in shortlist([score_of[fact] for fact in fresh])]
        chosen = choose("Answer: ", [fact.text for fact in near])
        fact = next(fact for fact in near if fact.text == chosen)
        named.add(fact.path)
        left.remove(fact)
        body = fact.text.rstrip(" .;:")
        said.append(f"{body} ({fact.path})." if fact.path else f"{body}.")
    return " ".join(said)


def _fact_lines(material: Material) -> list[str]:
    order = best_first(fact_scores(material.question, material.facts))[:_FACT_LINES]
    facts = [material.facts[index] for index in order]
    return [f"{fact.path}: {fact.text}" if fact.path else fact.text for fact in facts]
