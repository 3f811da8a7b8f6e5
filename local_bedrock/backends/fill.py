"""JSON that has the shape of a schema and whose strings stand in the data. Pure but for the chooser.

Understood: type, properties, items, enum, const, anyOf/oneOf (first branch), $ref into the same schema, minItems, maxItems,
minimum, maximum, maxLength. Of a tool's parameters the required ones are filled, with the question. Lists of judgements (risks,
groups, patterns) stay empty if they may. Not honoured: pattern and the like on free strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from local_bedrock.backends.choosing import Choose
from local_bedrock.backends.extract import Material
from local_bedrock.backends.facts import NOT_STATED, Fact
from local_bedrock.backends.prose import shorten
from local_bedrock.backends.ranking import Ranking, best_first, shortlist
from local_bedrock.backends.words import shared_words
from local_bedrock.calls import Json

_MAX_DEPTH = 8
_PATH_NAME = re.compile(r"(^|_)(path|file|filename|document|location)s?$", re.IGNORECASE)
_QUESTION_NAME = re.compile(r"^(user_?)?(query|question)(_understanding)?$", re.IGNORECASE)
_REASON_NAME = re.compile(r"reason$|_reason|explanation", re.IGNORECASE)
_PURPOSE_NAME = re.compile(r"intent|purpose|^about$", re.IGNORECASE)
_LABEL_NAME = re.compile(r"(^|_)(name|title|heading|area|component|topic)s?$", re.IGNORECASE)
_JUDGEMENT_NAME = re.compile(
    r"improve|inconsisten|under_|well_|gap|risk|missing|warning|alternative|consider|group|relation|pattern|analysis$|evolution|"
    r"suggest|steps|reference",
    re.IGNORECASE,
)
_DATE_NAME = re.compile(r"(^|_)(date|time|timestamp)$", re.IGNORECASE)
_TELLING_NAME = re.compile(
    "|".join(name.pattern for name in (_PATH_NAME, _REASON_NAME, _PURPOSE_NAME, _LABEL_NAME, _DATE_NAME)), re.I
)


@dataclass(frozen=True, slots=True)
class Richness:
    """How much to write: items of an array whose schema leaves it open, and characters of a sentence."""

    items: int
    sentence_chars: int


RICH = Richness(items=3, sentence_chars=300)
# What to fall back to, in turn, when the document has more tokens than the caller allows.
LESS_RICH = (Richness(2, 300), Richness(2, 120), Richness(1, 120), Richness(1, 60), Richness(0, 60))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the document a value is to stand: its property, the file its object is about, its array so far.

    `rank` is the place of its object (or itself) in the innermost array.
    """

    name: str = ""
    path: str = ""
    siblings: tuple[Json, ...] = ()
    rank: int = 0
    depth: int = 0


class Filler:
    """Fills one schema once. Within a list each sentence of the data is used at most once.

    `is_input`: what is filled are the parameters of a tool, so its strings get the question and not sentences of the data.
    """

    def __init__(
        self,
        schema: Mapping[str, Json],
        material: Material,
        ranking: Ranking,
        choose: Choose,
        *,
        is_input: bool,
        richness: Richness = RICH,
    ) -> None:
        self._schema = schema
        self._material = material
        self._ranking = ranking
        self._choose = choose
        self._is_input = is_input
        self._richness = richness
        self._unused = list(material.facts)
        self._covered: set[str] = set()  # words of the question that the list being filled has said
        order = best_first([ranking.path_score(path) for path in material.paths])
        self._ranked_paths = [material.paths[index] for index in order]
        self._spoken: list[Fact] = []  # what is said in the object that is being filled

    def value(self) -> Json:
        return self._fill(dict(self._schema), _Place())

    def _fill(self, schema: dict[str, Json], place: _Place) -> Json:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(options := schema.get("enum"), list) and options:
            return self._enum(options, place)
        match _type(schema):
            case "object":
                return self._object(schema, place)
            case "array":
                return self._array(schema, place)
            case "number" | "integer" as kind:
                return _number(schema, place.rank, whole=kind == "integer")
            case "boolean":
                return False
            case "null":
                return None
        text = self._text(place)
        limit = schema.get("maxLength")
        return text[:limit] if isinstance(limit, int) else text

    def _object(self, schema: dict[str, Json], place: _Place) -> Json:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or place.depth > _MAX_DEPTH:
            return {}
        own = _own_path_property(schema)
        path = place.path
        if own is not None:
            taken = [sibling.get(own) for sibling in place.siblings if isinstance(sibling, dict)]
            path = self._choose_path(taken)
        inner = replace(place, path=path, siblings=(), depth=place.depth + 1)
        self._spoken = []
        wanted = [name for name in properties if self._is_wanted(name, schema)]
        filled: dict[str, Json] = {}
        # What goes by the sentences of the object comes after them: labels, dates, lists of files.
        for name in sorted(wanted, key=lambda name: _goes_by_sentences(name, properties.get(name))):
            if place.depth == 0:
                self._unused = list(self._material.facts)
                self._covered = set()
            if name == own:
                filled[name] = path or NOT_STATED
            elif isinstance(schema_of := properties.get(name), dict):
                filled[name] = self._fill(schema_of, replace(inner, name=name))
        return {name: filled[name] for name in properties if name in filled}

    def _is_wanted(self, name: str, schema: Mapping[str, Json]) -> bool:
        """Of what is not required: of parameters the question, of a result all texts whose name says what they are, and lists."""
        required = schema.get("required")
        if isinstance(required, list) and name in required:
            return True
        if self._is_input:
            return _QUESTION_NAME.match(name) is not None
        properties = schema.get("properties")
        is_free = isinstance(properties, dict) and _is_text(properties[name]) and not _TELLING_NAME.search(name)
        return required is None or not is_free

    def _array(self, schema: dict[str, Json], place: _Place) -> Json:
        declared = schema.get("items")
        inner: dict[str, Json] = self._resolve(declared) if isinstance(declared, dict) else {"type": "string"}
        least, most = schema.get("minItems"), schema.get("maxItems")
        at_least = least if isinstance(least, int) else 0
        # A list of objects about files is what the reader came for: it is the last to be left empty.
        open_ended = self._richness.items - (1 if place.path and self._richness.items > 1 else 0)
        items = max(open_ended, 1 if _own_path_property(inner) else 0)
        wanted = min(max(items, at_least), most if isinstance(most, int) else items + at_least)
        values: list[Json] = []
        if at_least == 0 and _JUDGEMENT_NAME.search(place.name):
            return values
        if self._spoken and _is_path_list(place.name, schema):
            values += dict.fromkeys(fact.path for fact in self._spoken if fact.path)
            return values[: max(wanted, 1)]
        while len(values) < wanted and (len(values) < at_least or self._has_more(inner, place, values)):
            value = self._fill(inner, replace(place, siblings=tuple(values), rank=len(values), depth=place.depth + 1))
            if value in values and len(values) >= at_least:
                break
            values.append(value)
        return values

    def _has_more(self, inner: dict[str, Json], place: _Place, values: Sequence[Json]) -> bool:
        """Whether the data still has something that bears on the question for one more item."""
        if (own := _own_path_property(inner)) is not None or (_is_text(inner) and _PATH_NAME.search(place.name)):
            taken = [value.get(own) if own and isinstance(value, dict) else value for value in values]
            return self._best_paths(taken) != []
        if "enum" in inner:
            return True
        return any(place.path in ("", fact.path) and self._ranking.score(fact) > 0 for fact in self._unused)

    def _enum(self, options: list[Json], place: _Place) -> Json:
        texts = [str(option) for option in options if option not in place.siblings] or [
            str(option) for option in options
        ]
        chosen = self._choose(f"{place.name.replace('_', ' ')}: ", texts)
        return next(option for option in options if str(option) == chosen)

    def _text(self, place: _Place) -> str:
        if _QUESTION_NAME.match(place.name):
            return self._material.question
        if _PATH_NAME.search(place.name):
            return self._choose_path(place.siblings) or NOT_STATED
        if self._is_input:
            return self._material.question
        if _DATE_NAME.search(place.name):
            return next((fact.date for fact in self._spoken if fact.date), NOT_STATED)
        if _LABEL_NAME.search(place.name):
            return self._label(place)
        if _REASON_NAME.search(place.name) and place.path:
            return self._reason(place.path)
        if _PURPOSE_NAME.search(place.name) and place.path:
            return self._purpose(place.path)
        return self._sentence(place.path)

    def _sentence(self, path: str) -> str:
        about = [fact for fact in self._unused if not path or fact.path == path]
        if not about:
            return NOT_STATED
        near = [about[index] for index in shortlist([self._ranking.score(fact, self._covered) for fact in about])]
        chosen = self._choose("Answer: ", [fact.text for fact in near])
        fact = next(fact for fact in near if fact.text == chosen)
        self._spoken.append(fact)
        self._covered.update(self._ranking.words(fact))
        self._unused = [fact for fact in self._unused if fact.text != chosen]
        return shorten(chosen, self._richness.sentence_chars)

    def _purpose(self, path: str) -> str:
        """What a file says first is what it says about itself."""
        known = [fact for fact in (*self._material.given, *self._material.found) if fact.path == path]
        said = [fact for fact in known if not fact.heading] or known
        return shorten(said[0].text, self._richness.sentence_chars) if said else NOT_STATED

    def _choose_path(self, taken: Sequence[Json]) -> str:
        left = self._best_paths(taken)
        if not left:
            return ""
        near = shortlist([self._ranking.path_score(path) for path in left])
        return self._choose("Most relevant file: ", [left[index] for index in near])

    def _best_paths(self, taken: Sequence[Json]) -> list[str]:
        """The files that are left: those that match the question, or all if none does."""
        left = [path for path in self._ranked_paths if path not in taken]
        return [path for path in left if self._ranking.path_score(path) > 0] or ([] if taken else left)

    def _reason(self, path: str) -> str:
        told = [fact.text for fact in self._material.facts if fact.path == path]
        shared = shared_words(self._material.question, " ".join([path, self._material.symbols.get(path, ""), *told]))
        return f"Mentions {', '.join(shared[:4])}." if shared else "Stands in the data given for this question."

    def _label(self, place: _Place) -> str:
        """A short name: the heading of what is said, else the name of the file, or of the next of the folders."""
        heading = next((fact.heading for fact in self._spoken if fact.heading), "")
        if heading or place.path:
            return heading or PurePosixPath(place.path).name
        names = (
            _folder_or_file(path) for path in [*(fact.path for fact in self._spoken if fact.path), *self._ranked_paths]
        )
        return next((name for name in names if name not in place.siblings), NOT_STATED)

    def _resolve(self, schema: dict[str, Json]) -> dict[str, Json]:
        """The schema a reference or a choice of schemas leads to."""
        for _ in range(_MAX_DEPTH):
            branches = schema.get("anyOf") or schema.get("oneOf")
            if isinstance(reference := schema.get("$ref"), str):
                target: Json = dict(self._schema)
                for part in reference.removeprefix("#").strip("/").split("/"):
                    target = target.get(part) if isinstance(target, dict) else None
                schema = target if isinstance(target, dict) else {}
            elif isinstance(branches, list) and branches and isinstance(branches[0], dict):
                schema = branches[0]
            else:
                break
        return schema


def _type(schema: Mapping[str, Json]) -> str:
    declared = schema.get("type")
    if isinstance(declared, list):
        declared = next((kind for kind in declared if kind != "null"), "null")
    if isinstance(declared, str):
        return declared
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _is_text(schema: Json) -> bool:
    return isinstance(schema, dict) and "enum" not in schema and _type(schema) == "string"


def _folder_or_file(path: str) -> str:
    folder = str(PurePosixPath(path).parent)
    return path if folder == "." else folder


def _goes_by_sentences(name: str, schema: Json) -> bool:
    return _LABEL_NAME.search(name) is not None or _DATE_NAME.search(name) is not None or _is_path_list(name, schema)


def _is_path_list(name: str, schema: Json) -> bool:
    """A list of plain paths, as `supporting_files` is."""
    if not isinstance(schema, dict) or _type(schema) != "array" or not _PATH_NAME.search(name):
        return False
    return _is_text(schema.get("items", {}))


def _own_path_property(schema: Mapping[str, Json]) -> str | None:
    """The property that says which file an object is about."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return None
    return next((name for name, inner in properties.items() if _PATH_NAME.search(name) and _is_text(inner)), None)


def _number(schema: Mapping[str, Json], rank: int, *, whole: bool) -> Json:
    """Falls with the place in an array, within the schema's bounds (0 to 1, or 0 to 100 for integers, where it has none)."""
    least, most = schema.get("minimum"), schema.get("maximum")
    low = float(least) if isinstance(least, int | float) else 0.0
    high = float(most) if isinstance(most, int | float) else low + (100.0 if whole else 1.0)
    value = max(low, high - (high - low) * 0.1 * (rank + 1))
    return round(value) if whole else round(value, 2)
