"""Prose in a text that others wrote, told from code, tables, lists of names and headings. Pure, lenient, linear in the text.

What comes out is *passages*: a sentence, together with those that only make sense behind it ("This is why ...").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_PASSAGE_CHARS = 300

_MIN_WORDS = 4
_WRAPPED_LINE_CHARS = 45  # a line at least this long goes on in the next one
_MAX_PARAGRAPH_CHARS = 2_000
_CODE_INDENT = 4
_FENCE = re.compile(r"\s*(?:```|~~~(?!~))")
_HEADING = re.compile(r"#{1,6}\s+(?P<title>\S.*?)[\s#]*$")
_UNDERLINE = re.compile(r"([=\-~^*+#\"'])\1{2,}\s*$")
_TABLE_ROW = re.compile(r"\s*(?:\||\+[-=]|[=-]{2,}\s+[=-]{2,}|\S+(?: \S+){0,3}\s{3,}\S)")
_MARK = re.compile(r"\s*(?:\.\. |:[\w ]{1,40}:(?:\s|$)|>>>|\.\.\. |\$ |!\[|<|\[!?\w[^\]]*\]:?\s*(?:http\S*)?$|@)")
_CODE_DIRECTIVE = re.compile(
    r"\.\. (?:code|sourcecode|literalinclude|doctest|parsed-literal|math|toctree|image|figure|[\w-]*table|raw|auto\w+|module)"
)
_LIST_ITEM = re.compile(r"\s*(?:[-*+\u2022]\s|\(?\d+[.)]\s)")
_NEW_PARAGRAPH = re.compile(
    r"\s*(?:[-*+|\u2022]\s|\(?\d+[.)]\s|\d{4}-\d\d-\d\d|(?:intent|defines|changed|reference documentation):|\[[\w ]+\]$)",
    re.IGNORECASE,
)
_NEW_ENTRY = re.compile(r"\s*[\w ]{1,25}[:=]\s")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<! vs\.)\s+(?=[A-Z`\"'(\[*])")
_CLAUSE_END = re.compile(r";\s+")
_ROLE = re.compile(r":[\w:+.-]{1,30}:(?=`)")
_LINK = re.compile(r"\[([^\[\]]{1,200})\](?:\([^()\s]{0,300}\)|\[[^\[\]]{0,100}\])")
_TARGET = re.compile(r"`([^`<>]{1,200}?)\s*<[^`<>]{1,300}>`_{0,2}")
_TICKS = re.compile(r"`{2,}|(?<=`)_{1,2}(?!\w)|\*\*|`!")
_EMPHASIS = re.compile(r"(?<![\w*])\*([^\s*](?:[^*]{0,200}[^\s*])?)\*(?![\w*])")
_EDGE = re.compile(r"^[\s#>*\-+/|=~\"';:,.)\]\u2022]+|[\s*\"'|,]+$|\*/$")
_LABEL = re.compile(
    r"^(?:intent|description|summary|docstring|purpose|content|insight|reason|first lines?|note|todo)\s*[:=]\s*",
    re.IGNORECASE,
)
_TITLE = re.compile(r"^\S+ ([~=\-^])\1{2,} ")  # an underlined title that was put on one line with what it stands over
_POINTS_BACK = re.compile(
    r"\W*(?:it|its|they|their|this|that|these|those|such|he|she|which|and|but|or|so|otherwise|then|also|however|thus|hence|therefore|"
    r"for example|e\.g|i\.e|instead|in this case|here|both|again|as you|the (?:first|second|other|former|latter|rest)|another)\b",
    re.IGNORECASE,
)
_POINTS_AT_ITS_FILE = re.compile(
    r"(?:this|the) (?:module|package|file|script|document|page|library|project|directory|guide|section|chapter)\b",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"\(\)\s*[.=:{]|[{}]|::|->|=>|\w\s?=\s?[\w'\"(]|;$|\s\\$|^(?:async|def|class|import|from|return|if|for|while|with|assert|export|"
    r"pip|python|git|docker|npm|cd|sudo|curl)\s.*[:(=./-]$|^(?:from|import) [\w.]+"
)


@dataclass(frozen=True, slots=True)
class Passage:
    """One or more sentences that stand together, and the heading they stand under (or an empty string).

    An `is_aside` is a remark on the way, as comments within code are.
    """

    text: str
    heading: str
    is_aside: bool = False


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, cut between words."""
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + "…"


def is_complete(passage: str) -> bool:
    """Whether a passage begins and ends as a sentence does, and was not cut."""
    first = passage.lstrip("`\"'(")[:1]
    return passage.rstrip("`\"')*_").endswith((".", "!", "?")) and (first.isupper() or passage.startswith("`"))


def passages(text: str) -> list[Passage]:
    """The prose of a text in its order: Markdown, reStructuredText, docstrings and notes alike."""
    found: list[Passage] = []
    heading = ""
    for paragraph in paragraphs(text):
        title = heading_of(paragraph)
        if title is not None:
            heading = plain(title)
        else:
            found += (Passage(passage, heading) for passage in passages_of(paragraph))
    return found


def heading_of(paragraph: str) -> str | None:
    """The title that a paragraph from `paragraphs` is, if it is one."""
    heading = _HEADING.match(paragraph)
    return heading["title"] if heading else None


def passages_of(paragraph: str) -> Iterator[str]:
    """The passages of one paragraph, each at most MAX_PASSAGE_CHARS; code and fragments are left out."""
    passage = ""
    for sentence in _sentences(plain(paragraph)):
        is_prose = _is_prose(sentence)
        if is_prose and points_back(sentence):
            # Worth nothing alone, and only right behind what it points at.
            if passage and len(passage) + len(sentence) < MAX_PASSAGE_CHARS:
                passage = f"{passage} {sentence}"
            continue
        if passage:
            yield passage
        passage = sentence if is_prose else ""
    if passage:
        yield passage


def points_back(sentence: str) -> bool:
    """Whether a sentence makes sense only behind another one."""
    return _POINTS_BACK.match(sentence) is not None and _POINTS_AT_ITS_FILE.match(sentence) is None


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs with wrapped lines joined. Code blocks, tables and directives are left out; a heading is `# title`."""
    in_fence = False
    code_beneath = -1  # indentation of the line that announced a code block
    paragraph: list[str] = []
    blank_before = True
    for line in (line[:_MAX_PARAGRAPH_CHARS] for line in text.splitlines()):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if _FENCE.match(line):
            in_fence = not in_fence
            stripped = ""
        if in_fence or not stripped:
            yield from _joined(paragraph)
            paragraph, blank_before = [], True
            continue
        if code_beneath >= 0 and indent > code_beneath:
            continue
        announces_code = _CODE_DIRECTIVE.match(stripped) or (stripped.endswith("::") and not stripped.startswith(".."))
        code_beneath = indent if announces_code else -1
        is_code = indent >= _CODE_INDENT and blank_before and not _LIST_ITEM.match(line)
        if _UNDERLINE.match(stripped) and len(paragraph) == 1:
            yield f"# {paragraph[0].strip()}"
            paragraph = []
        elif is_code or _TABLE_ROW.match(line) or _MARK.match(line) or _UNDERLINE.match(stripped):
            yield from _joined(paragraph)
            paragraph = []
            blank_before = is_code  # the rest of an indented block is code as well
            continue
        elif _HEADING.match(line):
            yield from _joined(paragraph)
            yield stripped
            paragraph = []
        else:
            if paragraph and not _goes_on(paragraph, line):
                yield from _joined(paragraph)
                paragraph = []
            paragraph.append(line.removesuffix("::") + ":" if line.endswith("::") else line)
        blank_before = False
    yield from _joined(paragraph)


def plain(text: str) -> str:
    """One line without markup; backticks around names stay."""
    text = _TICKS.sub(
        lambda tick: "`" if tick[0].startswith("`") else "", _LINK.sub(r"\1", _ROLE.sub("", " ".join(text.split())))
    )
    text = _EDGE.sub("", _EMPHASIS.sub(r"\1", _TARGET.sub(r"\1", text)))
    text = _TITLE.sub("", _LABEL.sub("", text)).strip()
    return text if text.count("`") % 2 == 0 else text.replace("`", "")


def _sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph; of one that is too long its clauses."""
    for sentence in _SENTENCE_END.split(paragraph):
        clauses = [sentence] if len(sentence) <= MAX_PASSAGE_CHARS else _CLAUSE_END.split(sentence)
        for clause in clauses:
            yield shorten(plain(clause), MAX_PASSAGE_CHARS)


def _goes_on(paragraph: list[str], line: str) -> bool:
    previous = paragraph[-1].strip()
    is_open = not previous.endswith((".", "!", "?"))
    if _NEW_PARAGRAPH.match(line) or sum(map(len, paragraph)) > _MAX_PARAGRAPH_CHARS:
        return False
    if line.lstrip()[:1].islower() and is_open:
        return True
    return (
        len(previous) >= _WRAPPED_LINE_CHARS and not previous.endswith(":") and (is_open or not _NEW_ENTRY.match(line))
    )


def _joined(lines: Iterable[str]) -> Iterator[str]:
    text = " ".join(line.strip() for line in lines)
    if text:
        yield text


def _is_prose(sentence: str) -> bool:
    words = sentence.split()
    bare = sentence.replace("`", "")
    if len(words) < _MIN_WORDS or bare.endswith(":") or "://" in bare or _CODE.search(bare):
        return False
    letters = sum(character.isalpha() or character.isspace() for character in bare)
    return letters >= 0.8 * len(bare) and sum(word.strip("`.,;:()\"'").isalpha() for word in words) >= len(words) / 2
