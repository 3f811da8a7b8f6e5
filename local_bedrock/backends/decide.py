"""What the bundled model is asked to decide, and what becomes of it: tool calls, schema-shaped JSON, or a short answer.

The model is tiny, so it only chooses, and only among the few best-ranked candidates that stand in its data: a tool, a path, a
sentence. The shape around the choices is made here, without it. Pure but for `Choose`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from local_bedrock.backends.answer import answer
from local_bedrock.backends.choosing import Choose, ChooserFor, Count
from local_bedrock.backends.extract import Material
from local_bedrock.backends.fill import LESS_RICH, RICH, Filler
from local_bedrock.backends.paths import named_among, paths_in
from local_bedrock.backends.plan import files_property, planned, takes_input, told_files
from local_bedrock.backends.ranking import Ranking, best_first
from local_bedrock.backends.source_text import is_document
from local_bedrock.calls import Json, ModelCall, OutputBlock, Text, Tool, ToolUse, compact_json

READ_FILES = 2

_FACT_LINES = 5
_KNOWN_WELL = 4  # facts of a file from which on it has been shown already, and not only its head


def decide(call: ModelCall, material: Material, chooser_for: ChooserFor, count: Count) -> list[OutputBlock]:
    """The blocks of the answer, before any limit is applied. JSON is written shorter where the call allows few tokens."""
    decision = _Decision(call, material, chooser_for, count)
    return list(decision.tool_uses()) or [Text(answer(material, decision.ranking, decision.choose))]


class _Decision:
    def __init__(self, call: ModelCall, material: Material, chooser_for: ChooserFor, count: Count) -> None:
        self.ranking = Ranking(material.question, material.facts, material.paths, material.symbols)
        self._call = call
        self._material = material
        self._chooser_for = chooser_for
        self._count = count
        self._choose: Choose | None = None

    def choose(self, label: str, candidates: Sequence[str]) -> str:
        """Among facts and files: the model reads the best of what is known first."""
        if self._choose is None:
            facts = self._material.found or self._material.given
            order = best_first([self.ranking.score(fact) for fact in facts])[:_FACT_LINES]
            self._choose = self._chooser_for([f"{facts[at].path}: {facts[at].text}".removeprefix(": ") for at in order])
        return self._choose(label, candidates)

    def tool_uses(self) -> Sequence[ToolUse]:
        """The calls to make now; none when it is time to answer in words."""
        call, offered = self._call, self._call.offered_tools
        if call.tool_choice.name is not None:
            return [self._use(next(tool for tool in offered if tool.name == call.tool_choice.name))]
        answering = [tool for tool in offered if not takes_input(tool)]
        reading = [tool for tool in offered if takes_input(tool) and files_property(tool)]
        asking = [tool for tool in offered if takes_input(tool) and not files_property(tool)]
        if not call.all_tool_results:
            if asking:
                return self._plan(asking, reading)
            if reading and (paths := self._worth_reading() if answering else self._named_files()):
                return [self._use(reading[0], paths)]
        if answering and (
            self._material.facts or not reading or call.all_tool_results or call.tool_choice.mode == "any"
        ):
            return [self._use(answering[0])]
        return [self._use(offered[0])] if call.tool_choice.mode == "any" else []

    def _plan(self, asking: Sequence[Tool], reading: Sequence[Tool]) -> list[ToolUse]:
        tools = planned(asking, self._material.question, self._chooser_for)
        uses = [self._use(tool, share=len(tools) + 1) for tool in tools]
        named = self._named_files()
        return [*uses, *(self._use(tool, named, share=len(tools) + 1) for tool in reading[:1] if named)]

    def _named_files(self) -> list[str]:
        """Files that the question names, as the data spells them if it does."""
        named = list(paths_in(self._material.question))
        return (named_among(named, self._material.paths) or named)[:READ_FILES]

    def _worth_reading(self) -> list[str]:
        """The files that match the question best, if the data holds not more than their heads."""
        facts = self._material.given
        if any(fact.date for fact in facts):
            return []
        known = [fact.path for fact in facts]
        paths = [
            path
            for path in self._material.paths
            if self.ranking.path_score(path) > 0 and known.count(path) < _KNOWN_WELL and not is_document(path)
        ]
        order = best_first([self.ranking.path_score(path) for path in paths])
        return [paths[index] for index in order[:READ_FILES]]

    def _use(self, tool: Tool, paths: Sequence[str] = (), share: int = 1) -> ToolUse:
        """A call of the tool, on these files if it reads files, whose JSON has at most its share of the tokens if it can."""
        if not takes_input(tool) and not tool.input_schema.get("properties"):  # any object will do
            said: Json = {"answer": answer(self._material, self.ranking, self.choose)}
            return ToolUse(_new_id(), tool.name, compact_json(said))
        material = replace(self._material, paths=tuple(paths)) if paths else self._material
        most = self._call.max_tokens // share
        written = ""
        for richness in (RICH, *LESS_RICH):
            filler = Filler(
                tool.input_schema, material, self.ranking, self.choose, is_input=takes_input(tool), richness=richness
            )
            value = filler.value()
            if paths and isinstance(value, dict):
                value |= told_files(tool, paths)
            written = compact_json(value)
            if self._count(tool.name) + self._count(written) <= most:
                break
        return ToolUse(_new_id(), tool.name, written)


def _new_id() -> str:
    return f"tooluse_{uuid.uuid4().hex[:22]}"
