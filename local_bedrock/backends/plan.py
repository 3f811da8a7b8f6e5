"""Which tools a plan calls. The model chooses only where more of them suit than are called. Pure but for the chooser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from local_bedrock.backends.choosing import ChooserFor
from local_bedrock.backends.question import asks_about_change, asks_for_advice
from local_bedrock.backends.ranking import CANDIDATES, best_first
from local_bedrock.backends.words import scores
from local_bedrock.calls import Json, Tool

PLANNED_TOOLS = 3

_INPUT_PROPERTIES = frozenset({"query", "question", "path", "paths", "file_path", "file_paths"})
_FILE_PROPERTIES = frozenset({"path", "paths", "file_path", "file_paths"})
# Tools of a special kind, by name, and how to tell a question of that kind.
_SPECIAL = (
    (re.compile(r"change|history", re.IGNORECASE), asks_about_change),
    (re.compile(r"architect|expert|advi[cs]e", re.IGNORECASE), asks_for_advice),
)


def takes_input(tool: Tool) -> bool:
    """Whether a tool asks for something (a query, paths); one that does not takes the answer itself."""
    properties = _properties(tool)
    return properties is not None and (not properties or not _INPUT_PROPERTIES.isdisjoint(properties))


def files_property(tool: Tool) -> str | None:
    """The property by which a tool that reads files is told which."""
    return next((name for name in _properties(tool) or () if name in _FILE_PROPERTIES), None)


def told_files(tool: Tool, paths: Sequence[str]) -> dict[str, Json]:
    """The parameters by which a tool is told to read these files."""
    name = files_property(tool)
    return {name: list(paths) if name.endswith("s") else paths[0]} if name else {}


def planned(tools: Sequence[Tool], question: str, chooser_for: ChooserFor) -> list[Tool]:
    """The tools to ask: those of a special kind if the question is of that kind, and general ones as there is room.

    A tool that can do without a query is made for something else than questions.
    """
    asked = [tool for tool in tools if not _INPUT_PROPERTIES.isdisjoint(_required(tool))] or list(tools)
    ranked = [
        asked[index] for index in best_first(scores(question, [f"{tool.name} {tool.description}" for tool in asked]))
    ]
    fitting = [
        tool for tool in ranked if all(is_such(question) for kind, is_such in _SPECIAL if kind.search(tool.name))
    ] or ranked
    special = [tool for tool in fitting if any(kind.search(tool.name) for kind, _ in _SPECIAL)][:PLANNED_TOOLS]
    general = [tool for tool in fitting if tool not in special]
    return [*special, *_chosen(general, max(1, PLANNED_TOOLS - len(special)), chooser_for)]


def _chosen(tools: Sequence[Tool], room: int, chooser_for: ChooserFor) -> list[Tool]:
    if len(tools) <= room:
        return list(tools)
    label_of = _short_labels(tools)
    choose = chooser_for([f"{label_of[tool.name]}: {_first_sentence(tool.description)}" for tool in tools])
    left = list(tools)
    picked: list[Tool] = []
    while len(picked) < room:
        labels = [label_of[tool.name] for tool in left[:CANDIDATES]]
        picked.append(left.pop(labels.index(choose("Best source: ", labels))))
    return picked


def _short_labels(tools: Sequence[Tool]) -> dict[str, str]:
    """Tool names without the words all of them begin with: the model tells short names apart better, and sooner."""
    split = [tool.name.split("_") for tool in tools]
    shared = 0
    while len(split) > 1 and all(len(words) > shared + 1 and words[shared] == split[0][shared] for words in split):
        shared += 1
    return {"_".join(words): "_".join(words[shared:]) for words in split}


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;:])\s", text.strip(), maxsplit=1)[0][:120]


def _properties(tool: Tool) -> Mapping[str, Json] | None:
    properties = tool.input_schema.get("properties")
    return properties if isinstance(properties, dict) else None


def _required(tool: Tool) -> list[str]:
    required = tool.input_schema.get("required")
    return [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
