"""What stands in a prompt: the question, the facts of the data it was given, and the paths they come from. Pure.

Prompts fence their material as `<data name="..." source="...">`; tool results are material too. Within it, a path at the start
of a line (or a `path` key in JSON) owns the sentences that follow. All of it is text that others wrote, so the reading is
lenient: what is not recognised is left out. Time is linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from local_bedrock.calls import Json, ModelCall, Text

MAX_SENTENCE_CHARS = 220
MAX_QUESTION_CHARS = 300

_MIN_WORDS = 4
_MAX_JSON_DEPTH = 30
_WRAPPED_LINE_CHARS = 60  # a line at least this long that ends no sentence goes on in the next
_EXTENSION = re.compile(
    "py|pyi|md|rst|txt|toml|yaml|yml|json|cfg|ini|sh|sql|proto|js|jsx|ts|tsx|go|rs|java|kt|rb|c|h|cc|cpp|hpp|cs|html|css|"
    "xml|mk|tf|ipynb|swift|scala|php|lua"
)
_BARE_FILES = frozenset({"Makefile", "Dockerfile", "LICENSE", "README", "CHANGELOG"})
_PATH_TOKEN = re.compile(r"[\w@+./-]+")
_FOLDER_FILE = re.compile(r"[\w@+.-]*[\w+-]\.[A-Za-z]\w{0,5}")
_TAG = re.compile(r"<data\b(?P<attributes>[^<>]*)>|</data>")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']")
_QUESTION_NAME = re.compile(r"(user_?)?(query|question|request)", re.IGNORECASE)
# Fences that say how to work and not what to answer from; the question is one of them.
_NOT_MATERIAL = re.compile(
    r"(user_?)?(query|question|request)|limits?|parameters?|now|date.*|time.*|.*cost|snapshot.*|workspace|response_format|tool_call",
    re.IGNORECASE,
)
_QUESTION_LABEL = re.compile(
    r"^[^\w\n]*(?:user )?(?:query|question)\W*:\s*(?P<question>\S.*)$", re.IGNORECASE | re.MULTILINE
)
_DATED = re.compile(r"\d{4}-\d\d-\d\d\S*\s*[:|-]?\s*")
_LINE_START = re.compile(
    r"[\s\-*#>|\[(`'\"]*(?:\d+[.)]\s+)?(?:(?:path|file|source)\s*[:=]\s*)?[`'\"\[]?", re.IGNORECASE
)
_AFTER_PATH = re.compile(r"[`'\"]?\s*(?:$|[:\u2013\u2014|,)\]=(]|-\s)\s*")
_NEW_PARAGRAPH = re.compile(r"\s*(?:[-*+|]\s|\d+[.)]\s|\w{1,25}[:=]\s|#+\s)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(\[])")
_MARKUP = re.compile(r"^[\s#>*\-+/|=~`\"';:,.)\]]+|[\s*`\"'|,]+$|\*/$")
_LABEL = re.compile(
    r"^(?:intent|description|summary|docstring|purpose|content|insight|reason|first lines?)\s*[:=]\s*", re.IGNORECASE
)
_POINTS_BACK = re.compile(r"(?:it|they|this|that|these|those|he|she|which|and|but|or|so|otherwise)\b", re.IGNORECASE)
_CODE = re.compile(r"\(\)|[=;{}]|::|->|^(?:async|def|class|import|from|return|if|for|while|with|assert) .*[:(]")
# Said by whoever put the data together, not by a file: symbol lists, marks of what was left out.
_REMARK = re.compile(
    r"^\W*(?:(?:defines|cut|reference documentation):|the file does not say|and \d+ files more)|left out:"
)
_PATH_KEYS = ("path", "file_path", "file", "filename", "source")
_TOLD_ABOUT_DATA = re.compile(
    r"query|question|reason|explanation|score|confidence|^id$|_id$", re.IGNORECASE
)  # not from it
_PATH_LIST_KEYS = ("files", "paths", "supporting_files", "source_documents")


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence of the data, and the file it is about if that is known."""

    text: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Material:
    """What a prompt gives to answer from: facts and all paths, each once, in the order they stand in it."""

    question: str
    facts: tuple[Fact, ...]
    paths: tuple[str, ...]


def extract(call: ModelCall) -> Material:
    """The material of a call: the newest tool results first, then fenced data anywhere in it."""
    texts = [block.text for block in call.system if isinstance(block, Text)]
    texts += [block.text for m in call.messages for block in m.content if isinstance(block, Text) and m.role == "user"]
    fences = [fence for text in texts for fence in _split(text)[0]]
    questions = [body for given, body in fences if _QUESTION_NAME.fullmatch(given.get("name", ""))]
    question = questions[0] if questions else _plain_question(call)
    results = [result.text for result in reversed(call.all_tool_results) if not result.is_error]
    sources = [source for text in results for source in _sources_in_result(text)]
    sources += [_source(given, body) for given, body in fences if not _NOT_MATERIAL.fullmatch(given.get("name", ""))]
    facts = [fact for text, path in sources for fact in facts_in(text, path)]
    owners = [fact.path for fact in facts if fact.path]
    return Material(
        question=shorten(" ".join(question.split()), MAX_QUESTION_CHARS),
        facts=tuple(dict.fromkeys(facts)),
        paths=tuple(dict.fromkeys([*owners, *(path for text, _ in sources for path in paths_in(text))])),
    )


def paths_in(text: str) -> Iterator[str]:
    """Every path that stands in a text, in order."""
    for match in _PATH_TOKEN.finditer(text):
        token = match[0].rstrip("./-").removeprefix("./")
        if _is_path(token):
            yield token


def path_in(text: str) -> str | None:
    """The first path that stands in a text."""
    return next(paths_in(text), None)


def facts_in(text: str, path: str | None) -> Iterator[Fact]:
    """The facts of one piece of material, JSON or text; `path` owns what no nearer path does."""
    parsed = _parse_json(text)
    if parsed is not None:
        yield from _json_facts(parsed, path, 0)
    else:
        yield from _text_facts(text, path)


def sentences(text: str) -> Iterator[str]:
    """Prose sentences of a paragraph: markup taken off, code and fragments left out, each at most MAX_SENTENCE_CHARS."""
    for part in _SENTENCE_END.split(_clean(text)):
        sentence = _clean(part)
        if _is_prose(sentence):
            yield shorten(sentence, MAX_SENTENCE_CHARS)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words."""
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + "…"


def _split(text: str) -> tuple[list[tuple[dict[str, str], str]], str]:
    """Attributes and body of each fence of a text, and the text outside of them."""
    fences = []
    outside = []
    opened: re.Match[str] | None = None
    end = 0
    for tag in _TAG.finditer(text):
        if opened is None and tag["attributes"] is not None:
            outside.append(text[end : tag.start()])
            opened = tag
        elif opened is not None and tag["attributes"] is None:
            fences.append((dict(_ATTRIBUTE.findall(opened["attributes"])), text[opened.end() : tag.start()]))
            end = tag.end()
            opened = None
    return fences, "".join([*outside, text[end:]] if opened is None else outside)


def _source(attributes: dict[str, str], body: str) -> tuple[str, str | None]:
    """A fence's body and the file it is of, if the fence says so."""
    return body, path_in(attributes.get("source", "")) or path_in(attributes.get("name", ""))


def _sources_in_result(text: str) -> list[tuple[str, str | None]]:
    return [_source(given, body) for given, body in _split(text)[0]] or [(text, None)]


def _is_path(token: str) -> bool:
    folder, slash, name = token.rpartition("/")
    if "//" in token or token.startswith("/") or not name:
        return False
    if name in _BARE_FILES:
        return True
    stem, dot, extension = name.rpartition(".")
    if slash and folder:
        return _FOLDER_FILE.fullmatch(name) is not None
    return bool(dot and stem) and _EXTENSION.fullmatch(extension) is not None


def _plain_question(call: ModelCall) -> str:
    """The question where it is not fenced: in the first user message, after a label if there is one."""
    for message in call.messages:
        text = "\n".join(block.text for block in message.content if isinstance(block, Text))
        outside = _split(text)[1].strip()
        if message.role == "user" and outside:
            labelled = _QUESTION_LABEL.search(outside)
            return labelled["question"] if labelled else outside
    return ""


def _parse_json(text: str) -> Json:
    """The object or array a text is; None for a text that only begins like one."""
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return None
    try:
        parsed: Json = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    return parsed


def _json_facts(value: Json, path: str | None, depth: int) -> Iterator[Fact]:
    if depth > _MAX_JSON_DEPTH:
        return
    match value:
        case dict():
            own = _owner_in(value) or path
            for key, entry in value.items():
                if key not in _PATH_KEYS and not _TOLD_ABOUT_DATA.search(key):
                    yield from _json_facts(entry, own, depth + 1)
        case list():
            for entry in value:
                yield from _json_facts(entry, path, depth + 1)
        case str():
            yield from _text_facts(value, path)


def _owner_in(entry: dict[str, Json]) -> str | None:
    """The file an object is about: its path, or the first of the files it names in support."""
    named: list[Json] = [entry[key] for key in _PATH_KEYS if key in entry]
    for key in _PATH_LIST_KEYS:
        listed = entry.get(key)
        named += listed if isinstance(listed, list) else []
    return next((path for name in named if isinstance(name, str) and (path := path_in(name))), None)


def _text_facts(text: str, path: str | None) -> Iterator[Fact]:
    owner = path
    for paragraph in _paragraphs(text.splitlines()):
        parsed = _parse_json(paragraph)
        if parsed is not None:
            yield from _json_facts(parsed, owner, 0)
            continue
        found, rest = _owning_path(paragraph)
        owner = found or owner
        for sentence in sentences(rest):
            begins_with = path_in(sentence.split()[0])  # such a sentence is about that file, whichever it stands in
            yield Fact(sentence, begins_with or owner or path_in(sentence))


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Lines, with those that were wrapped joined again."""
    paragraph = ""
    for line in lines:
        goes_on = _WRAPPED_LINE_CHARS <= len(paragraph) < 4 * MAX_SENTENCE_CHARS and paragraph[-1] not in ".!?:"
        if goes_on and line.strip() and not _NEW_PARAGRAPH.match(line):
            paragraph = f"{paragraph} {_clean(line)}"
            continue
        if paragraph:
            yield paragraph
        paragraph = line.strip()
    if paragraph:
        yield paragraph


def _owning_path(line: str) -> tuple[str | None, str]:
    """The path a line begins with, if it owns what follows, and the rest of the line. Of a list of paths the first one owns."""
    dated = _DATED.match(line)
    start = dated.end() if dated else 0
    owner = None
    while True:
        opened = _LINE_START.match(line, start)
        token = _PATH_TOKEN.match(line, opened.end() if opened else start)
        after = _AFTER_PATH.match(line, token.end()) if token else None
        if token is None or after is None or not _is_path(path := token[0].removeprefix("./").rstrip("./-")):
            return owner, line[start:] if owner else line
        owner = owner or path
        start = after.end()
        if "," not in after[0]:
            return owner, line[start:]


def _clean(text: str) -> str:
    text = _MARKUP.sub("", " ".join(text.split()))
    return _LABEL.sub("", text).replace("`", "").replace("**", "").strip()


def _is_prose(sentence: str) -> bool:
    words = sentence.split()
    if len(words) < _MIN_WORDS or _POINTS_BACK.match(sentence) or _CODE.search(sentence) or _REMARK.search(sentence):
        return False
    plain = sum(character.isalpha() or character.isspace() for character in sentence)
    return plain >= 0.8 * len(sentence) and sum(word.rstrip(".,;:").isalpha() for word in words) >= len(words) / 2
