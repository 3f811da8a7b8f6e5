"""The outline of a file: symbols of code, headings of documents, and what either refers to.

Pure functions over text with LF line ends. Regular expressions that begin with a literal, because that is what lets a
hundred thousand files be searched in seconds; a symbol missed or taken from a string costs a little relevance, never
correctness. Repetitions that another try could start over from are bounded, for a file may be made to keep us busy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_SYMBOLS = 400
MAX_HEADINGS = 200
MAX_HEADING_LINE = 300
MAX_REFERENCES = 200

_PYTHON_SYMBOLS = (re.compile(r"def +(\w+) *[\[(]"), re.compile(r"class +(\w+) *[\[(:]"))
_KEYWORD_SYMBOLS = tuple(
    re.compile(pattern)
    for pattern in (
        r"class +(\w+)", r"interface +(\w+)", r"struct +(\w+)", r"enum +(\w+)", r"trait +(\w+)", r"module +(\w+)",
        r"namespace +(\w+)", r"impl(?:<[^>]{0,200}>)? +(\w+)", r"function\*? +(\w+)", r"func +(?:\([^)\n]{0,200}\) *)?(\w+)",
        r"fn +(\w+)", r"fun +(\w+)", r"def +(?:self\.)?(\w+)", r"type +(\w+) *(?:=|struct|interface)",
        r"const +(\w+) *= *(?:async *)?(?:\(|function)", r"message +(\w+) *\{", r"service +(\w+) *\{", r"rpc +(\w+)",
        r"#define +(\w+)", r"(?:CREATE|create) +(?:TABLE|table|VIEW|view) +(?:(?i:if not exists) +)?[\"`]?(\w+)",
    )
)  # fmt: skip
_C_FUNCTION = re.compile(r"\n(?:[A-Za-z_][\w \t*&:<>,]{0,120}?\b)?(\w{1,80})\([^;{}]{0,400}\)[\s\w]{0,40}\{")
_C_LIKE = frozenset({"C", "C++", "Objective-C", "CUDA"})
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)")
_MARKDOWN_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$")
_UNDERLINE = re.compile(r"^([=\-~^\"'*+#`:.])\1{2,}[ \t]*$")

_PYTHON_IMPORTS = (
    re.compile(r"from +([\w.]+) +import +(\([^)]{0,2000}\)|[^\n#]{0,400})"),
    re.compile(r"import +([\w.]+(?: *, *[\w.]+)*)"),
)
_MARKDOWN_LINK = re.compile(r"\]\(<?([^)\s>#]+)")
_RST_REFERENCE = re.compile(
    r"(?:include|literalinclude|image|figure|doc)::? *`?<?([\w./\-]+)|:doc:`(?:[^`<]*<)?([\w./\-]+)"
)
_QUOTED_MODULE = re.compile(r"(?:from|import|require\(|#include|source|\.) *['\"]([\w./@\-]+)['\"]")


def symbols_of(text: str, language: str) -> list[str]:
    """Names that a source file defines, without repeats."""
    patterns: Iterable[re.Pattern[str]] = _PYTHON_SYMBOLS if language == "Python" else _KEYWORD_SYMBOLS
    names: dict[str, None] = {}
    for pattern in patterns:
        for name in pattern.findall(text):
            names.setdefault(name)
    if language in _C_LIKE:
        for name in _C_FUNCTION.findall(text):
            names.setdefault(name)
    return list(names)[:MAX_SYMBOLS]


def headings_of(text: str) -> list[str]:
    """Headings of a Markdown or reStructuredText document, in order."""
    return [heading for _, heading in sections_of(text)][:MAX_HEADINGS]


def sections_of(text: str) -> Iterator[tuple[int, str]]:
    """(line number from 0, heading) of each section of a document; headings inside code fences do not count."""
    fenced = False
    previous = ""
    for number, line in enumerate(text.split("\n")):
        if len(line) > MAX_HEADING_LINE:
            previous = ""
            continue
        # A row of tildes right beneath text underlines it.
        if _FENCE.match(line) and (fenced or not (previous and line.startswith("~"))):
            fenced = not fenced
        elif not fenced:
            match = _MARKDOWN_HEADING.match(line)
            if match:
                yield number, match[1]
            elif previous and _UNDERLINE.match(line) and len(line.rstrip()) >= min(len(previous), 4):
                yield number - 1, previous
        # A title is text at the margin; an over-line of a title or a table's border is not.
        previous = line.strip() if line[:1].strip() and not _UNDERLINE.match(line) else ""


def references_of(text: str, language: str) -> list[str]:
    """What a file refers to, as written: dotted modules of Python imports, relative paths of links, includes and other
    imports.
    """
    found: dict[str, None] = {}
    if language == "Python":
        for module, names in _PYTHON_IMPORTS[0].findall(text):
            found.setdefault(module)
            for name in re.findall(r"\w+", names.split(" as ")[0] if "," not in names else names)[:20]:
                found.setdefault(f"{module}{'' if module.endswith('.') else '.'}{name}")
        for modules in _PYTHON_IMPORTS[1].findall(text):
            for module in modules.split(","):
                found.setdefault(module.strip())
    elif language in {"Markdown", "reStructuredText"}:
        for target in _MARKDOWN_LINK.findall(text):
            if "://" not in target and not target.startswith("mailto:"):
                found.setdefault(target)
        for first, second in _RST_REFERENCE.findall(text):
            found.setdefault(first or second)
    else:
        for target in _QUOTED_MODULE.findall(text):
            found.setdefault(target)
    return [target for target in found if target and len(target) < 200][:MAX_REFERENCES]
