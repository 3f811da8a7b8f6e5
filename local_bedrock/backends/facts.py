"""Facts of a piece of material: its sentences, each with the file, the heading and the day it belongs to. Pure.

A path on a line of its own, or in a `path` key of JSON, owns what follows. A line that begins with such a path is about that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from local_bedrock.backends.cut_json import parse_json
from local_bedrock.backends.paths import path_in, path_line
from local_bedrock.backends.prose import heading_of, paragraphs, passages_of, plain
from local_bedrock.backends.source_text import is_document, said_in_source
from local_bedrock.calls import Json

NOT_STATED = "Not stated in the data."
"""What stands for a required text that the data does not give; never a fact."""

_MAX_JSON_DEPTH = 30
_BEGINS_WITH_PATH = re.compile(r"[\s\-*>`'\"]*(?P<path>[\w@+./-]+)[`'\"]?\s*(?::|-|\u2013|\u2014)\s+(?=\S)")
_DATED = re.compile(r"\s*(?P<date>\d{4}-\d\d-\d\d)\S*?\s*:\s+(?:\[(?P<files>[^\[\]]*)\]\s*)?")
_COMMIT = re.compile(r"\s*\(commit \w+\)")
_SYMBOLS = re.compile(r"defines:\s*(?P<symbols>.*)")
# Said by whoever put the data together, not by a file.
_REMARK = re.compile(
    r"\W*(?:(?:cut|reference documentation|changed):|(?:intent: \()?the file does not say|and \d+ files more|[\w ]+\]$)|.*left out:"
)
_PATH_KEYS = ("path", "file_path", "file", "filename", "source")
_PATH_LIST_KEYS = ("files", "paths", "supporting_files", "source_documents")
_HEADING_KEYS = ("heading", "title", "section")
_SCORE_KEYS = ("relevance_score", "confidence")
_ASIDE = 0.4
_FILE_TEXT_KEY = "content"
# Keys whose texts are about the result and not from a file.
_NOT_FROM_FILES = re.compile(
    r"^(?:query|question)(?:_understanding)?$|reason$|_reason|explanation|score|confidence|missing|error|left_of|files_seen|modified|"
    r"^id$|_id$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One or more sentences of the data that stand together.

    `path` is the file they are of, `heading` what they stand under in it (a title, the name of a function), `date` (ISO) the day of
    the change that they tell; each is empty when it is not known. `relevance`, from 0 to 1, is what the tool that found them
    thought of them, or less for a remark on the way.
    """

    text: str
    path: str = ""
    heading: str = ""
    date: str = ""
    relevance: float = 1.0


@dataclass(frozen=True, slots=True)
class _Place:
    """What owns a text, unless something nearer does."""

    path: str = ""
    heading: str = ""
    date: str = ""
    relevance: float = 1.0
    depth: int = 0


class FactReader:
    """Reads pieces of material that belong together. `paths` and `symbols` gather what is met, in order."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.paths: dict[str, None] = {}
        self.symbols: dict[str, str] = {}
        for text in texts:
            self._note_paths(text)

    def facts(self, sources: Iterable[tuple[str, str]]) -> list[Fact]:
        """The facts of texts and of the files that own them (or empty strings), none twice."""
        of_text: dict[str, Fact] = {}
        for text, path in sources:
            for fact in self._of_text(text, _Place(path)):
                if not (known := of_text.get(fact.text)) or (fact.path and not known.path):
                    of_text[fact.text] = fact
        return list(of_text.values())

    def _note_paths(self, text: str) -> None:
        """Which files the material is about: not every path that is mentioned somewhere is one of this workspace."""
        parsed = parse_json(text)
        if parsed is not None:
            self._note_json_paths(parsed, 0)
        else:
            self.paths |= {path: None for line in text.splitlines() if (path := path_line(line))}

    def _note_json_paths(self, value: Json, depth: int) -> None:
        if depth > _MAX_JSON_DEPTH:
            return
        if isinstance(value, dict):
            self.paths |= dict.fromkeys(_paths_named(value))
        for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self._note_json_paths(entry, depth + 1)

    def _of_text(self, text: str, place: _Place) -> Iterator[Fact]:
        parsed = parse_json(text)
        if parsed is not None:
            yield from self._of_json(parsed, place)
            return
        for path, body in _blocks(text):
            yield from self._of_body(body, replace(place, path=path or place.path))

    def _of_json(self, value: Json, place: _Place) -> Iterator[Fact]:
        if place.depth > _MAX_JSON_DEPTH:
            return
        match value:
            case dict():
                yield from self._of_object(value, place)
            case list():
                for entry in value:
                    yield from self._of_json(entry, replace(place, depth=place.depth + 1))
            case str() if value != NOT_STATED:
                yield from self._of_text(value, replace(place, depth=place.depth + 1))

    def _of_object(self, value: dict[str, Json], place: _Place) -> Iterator[Fact]:
        inner = _Place(
            path=next(iter(_paths_named(value)), place.path),
            heading=next((text for key in _HEADING_KEYS if isinstance(text := value.get(key), str)), place.heading),
            date=date if isinstance(date := value.get("date"), str) and date != NOT_STATED else place.date,
            relevance=next(
                (float(score) for key in _SCORE_KEYS if isinstance(score := value.get(key), int | float)),
                place.relevance,
            ),
            depth=place.depth + 1,
        )
        for key, entry in value.items():
            if key in _PATH_KEYS or key in _HEADING_KEYS or _NOT_FROM_FILES.search(key):
                continue
            if key == _FILE_TEXT_KEY and isinstance(entry, str) and inner.path and not is_document(inner.path):
                for said in said_in_source(entry):
                    yield Fact(said.text, inner.path, said.heading, relevance=_ASIDE if said.is_aside else 1.0)
            else:
                yield from self._of_json(entry, inner)

    def _of_body(self, text: str, place: _Place) -> list[Fact]:
        facts: list[Fact] = []
        heading, date = place.heading, place.date
        for paragraph in paragraphs(text):
            title = heading_of(paragraph)
            if title is not None:
                heading = plain(title)
            elif (defined := _SYMBOLS.match(paragraph)) and place.path:
                self.symbols[place.path] = defined["symbols"]
            elif parse_json(paragraph) is not None:
                facts += self._of_text(paragraph, replace(place, depth=place.depth + 1))
            elif not _REMARK.match(paragraph):
                owner = place.path
                if dated := _DATED.match(paragraph):
                    date, owner = dated["date"], path_in(dated["files"] or "") or owner
                    paragraph = _COMMIT.sub("", paragraph[dated.end() :])
                elif (begun := _BEGINS_WITH_PATH.match(paragraph)) and begun["path"].removeprefix("./") in self.paths:
                    owner, paragraph = begun["path"].removeprefix("./"), paragraph[begun.end() :]
                facts += (Fact(passage, owner, heading, date, place.relevance) for passage in passages_of(paragraph))
        return facts


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """The text in pieces, each with the path that stands on a line of its own above it (or an empty string)."""
    path = ""
    body: list[str] = []
    is_new = True  # after nothing, a blank line or another path
    for line in text.splitlines():
        found = path_line(line) if is_new else ""
        if found:
            yield path, "\n".join(body)
            path, body = found, []
        else:
            body.append(line)
        is_new = bool(found) or not line.strip()
    yield path, "\n".join(body)


def _paths_named(value: dict[str, Json]) -> list[str]:
    """The files that an object is about: its path, then those that it names in support."""
    named: list[Json] = [value[key] for key in _PATH_KEYS if key in value]
    for key in _PATH_LIST_KEYS:
        listed = value.get(key)
        named += listed if isinstance(listed, list) else []
    return [path for name in named if isinstance(name, str) for path in (path_line(name),) if path]
