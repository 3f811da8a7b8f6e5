"""JSON that has the shape of a schema and whose strings stand in the data. Pure but for the chooser.

Understood: type, properties, items, enum, const, anyOf/oneOf (first branch), $ref into the same schema, minItems, maxItems,
minimum, maximum, maxLength. Every property is filled, required or not; lists of judgements (risks, improvements) stay empty if
they may. Not honoured: pattern and the like on free strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from local_bedrock.backends.extract import Material, shorten
from local_bedrock.backends.ranking import best_first, fact_scores, scores, shared_words, shortlist
from local_bedrock.calls import Json

NOT_STATED = "Not stated in the data."

_MAX_DEPTH = 8
_PATH_NAME = re.compile(r"(^|_)(path|file|filename|document|location)s?$", re.IGNORECASE)
_QUESTION_NAME = re.compile(r"^(user_?)?(query|question)$", re.IGNORECASE)
_REASON_NAME = re.compile(r"reason|explanation|rationale|why", re.IGNORECASE)
_LABEL_NAME = re.compile(r"(^|_)(name|title|heading|area|component|topic)s?$", re.IGNORECASE)
_JUDGEMENT_NAME = re.compile(r"improve|inconsisten|under_|gap|risk|missing|warning|alternative", re.IGNORECASE)
_DATE_NAME = re.compile(r"(^|_)(date|time|timestamp)$", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:T[\d:]+Z?)?")


@dataclass(frozen=True, slots=True)
class Richness:
    """How much to write: items of an array whose schema leaves it open, and characters of a sentence."""

    items: int
    sentence_chars: int


RICH = Richness(items=2, sentence_chars=220)
# What to fall back to, in turn, when the document has more tokens than the caller allows.
LESS_RICH = (Richness(2, 100), Richness(1, 120), Richness(1, 60), Richness(0, 60))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the document a value is to stand: its property, the file its object is about, its array so far.

    `rank` is the place of its object (or itself) in the innermost array.
    """

    name: str = ""
    path: str | None = None
    siblings: tuple[Json, ...] = ()
    rank: int = 0
    depth: int = 0


class Filler:
    """Fills one schema once; each sentence of the data is used at most once while there are others.

    `free_text_is_question`: strings are parameters of a tool, so they get the question and not sentences of the data.
    """

    def __init__(
        self,
        schema: Mapping[str, Json],
        material: Material,
        choose: Callable[[str, Sequence[str]], str],
        *,
        free_text_is_question: bool,
        richness: Richness = RICH,
    ) -> None:
        self._schema = schema
        self._material = material
        self._choose = choose
        self._free_text_is_question = free_text_is_question
        self._richness = richness
        self._unused = list(material.facts)
        self._score_of = _path_scores(material)
        order = best_first([self._score_of[path] for path in material.paths])
        self._ranked_paths = [material.paths[index] for index in order]
        self._spoken: list[str] = []  # files of the sentences used in the object that is being filled

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
        text = self._text(str(schema.get("description", "")), place)
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
        # Labels and lists of files last: they then go by the files whose sentences the object uses.
        names = sorted(properties, key=lambda name: _goes_by_sentences(name, properties[name]))
        filled: dict[str, Json] = {}
        for name in names:
            if name == own:
                filled[name] = path or NOT_STATED
            elif isinstance(schema_of := properties[name], dict):
                filled[name] = self._fill(schema_of, replace(inner, name=name))
        return {name: filled[name] for name in properties if name in filled}

    def _array(self, schema: dict[str, Json], place: _Place) -> Json:
        declared = schema.get("items")
        inner: dict[str, Json] = self._resolve(declared) if isinstance(declared, dict) else {"type": "string"}
        least, most = schema.get("minItems"), schema.get("maxItems")
        at_least = least if isinstance(least, int) else 0
        # A list of objects about files is what the reader came for: it is the last to be left empty.
        items = max(self._richness.items, 1 if _own_path_property(inner) else 0)
        wanted = min(max(items, at_least), most if isinstance(most, int) else items + at_least)
        values: list[Json] = []
        if at_least == 0 and _JUDGEMENT_NAME.search(place.name):
            return values
        if self._spoken and _is_path_list(place.name, schema):
            values += list(dict.fromkeys(self._spoken))[:wanted]
        while len(values) < wanted and (len(values) < at_least or self._has_more(inner, place, values)):
            value = self._fill(inner, replace(place, siblings=tuple(values), rank=len(values), depth=place.depth + 1))
            if value in values and len(values) >= at_least:
                break
            values.append(value)
        return values

    def _has_more(self, inner: dict[str, Json], place: _Place, values: Sequence[Json]) -> bool:
        """Whether the data still has something for one more item."""
        own = _own_path_property(inner)
        if own is not None or (_is_text(inner) and _PATH_NAME.search(place.name)):
            return len(values) < len(self._ranked_paths)
        return "enum" in inner or any(place.path in (None, fact.path) for fact in self._unused)

    def _enum(self, options: list[Json], place: _Place) -> Json:
        texts = [str(option) for option in options if option not in place.siblings] or [
            str(option) for option in options
        ]
        chosen = self._choose(f"{place.name.replace('_', ' ')}: ", texts)
        return next(option for option in options if str(option) == chosen)

    def _text(self, description: str, place: _Place) -> str:
        if _QUESTION_NAME.match(place.name):
            return self._material.question
        if _PATH_NAME.search(place.name):
            return self._choose_path(place.siblings) or NOT_STATED
        if self._free_text_is_question:
            return self._material.question
        if _DATE_NAME.search(place.name):
            return self._date(place.path)
        if _LABEL_NAME.search(place.name):
            return self._label(place)
        if _REASON_NAME.search(place.name) and place.path is not None:
            return self._reason(place.path)
        return self._sentence(f"{place.name.replace('_', ' ')} {description}", place.path)

    def _sentence(self, wanted: str, path: str | None) -> str:
        about = [fact for fact in self._unused if path is None or fact.path == path]
        if not about:
            return NOT_STATED
        near = shortlist(fact_scores(f"{self._material.question} {wanted}", about))
        chosen = self._choose("Answer: ", [about[index].text for index in near])
        self._spoken += [fact.path for fact in about if fact.text == chosen and fact.path is not None]
        self._unused = [fact for fact in self._unused if fact.text != chosen]
        return shorten(chosen, self._richness.sentence_chars)

    def _choose_path(self, taken: Sequence[Json]) -> str | None:
        left = [path for path in self._ranked_paths if path not in taken]
        if not left:
            return None
        near = shortlist([self._score_of[path] for path in left])
        return self._choose("Most relevant file: ", [left[index] for index in near])

    def _reason(self, path: str) -> str:
        facts = [fact.text for fact in self._material.facts if fact.path == path]
        shared = shared_words(self._material.question, " ".join([path, *facts]))
        return f"Mentions {', '.join(shared[:4])}." if shared else "Stands in the data given for this question."

    def _label(self, place: _Place) -> str:
        """A short name: the file's, or the next of the folders (or files) the data is about."""
        if place.path is not None:
            return PurePosixPath(place.path).name
        names = (_folder_or_file(path) for path in [*self._spoken, *self._ranked_paths])
        return next((name for name in names if name not in place.siblings), NOT_STATED)

    def _date(self, path: str | None) -> str:
        texts = [fact.text for fact in self._material.facts if path is None or fact.path == path]
        return next((match[0] for text in texts if (match := _DATE.search(text))), NOT_STATED)

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


def _path_scores(material: Material) -> dict[str, float]:
    """How well each path matches the question: as its best sentence does, or the path by itself."""
    score_of = dict(zip(material.paths, scores(material.question, material.paths), strict=True))
    for fact, score in zip(material.facts, fact_scores(material.question, material.facts), strict=True):
        if fact.path is not None:
            score_of[fact.path] = max(score_of[fact.path], score)
    return score_of


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
    return _LABEL_NAME.search(name) is not None or _is_path_list(name, schema)


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
