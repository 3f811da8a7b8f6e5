"""The outline of a file: symbols of code, headings of documents, and what either refers to.

Pure functions over text with LF line ends. Regular expressions that begin with a literal, because that is what lets a
hundred thousand files be searched in seconds; a symbol missed or taken from a string costs a little relevance, never
correctness. Repetitions that another try could start over from are bounded, for a file may be made to keep us busy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MAX_SYMBOLS = 400
MAX_HEADINGS = 200
MAX_HEADING_LINE = 300
MAX_REFERENCES = 200

# What defines a name in each language; a symbol is what the one group matches.
_CLASS, _STRUCT, _ENUM = r"class +(\w+)", r"struct +(\w+)", r"enum +(?:class +)?(\w+)"
_INTERFACE, _FUNCTION, _NAMESPACE = r"interface +(\w+)", r"function\*? +(\w+)", r"namespace +(\w+)"
_C_FUNCTION = r"\n(?:[A-Za-z_][\w \t*&:<>,]{0,120}?\b)?(\w{1,80})\([^;{}]{0,400}\)[\s\w]{0,40}\{"
_C = (_STRUCT, _ENUM, r"#define +(\w+)", _C_FUNCTION)
_PYTHON = (r"def +(\w+) *[\[(]", r"class +(\w+) *[\[(:]")
_SCRIPT = (_CLASS, _FUNCTION, r"const +(\w+) *= *(?:async *)?(?:\(|function)")
_TYPED_SCRIPT = (*_SCRIPT, _INTERFACE, _ENUM, r"type +(\w+) *=", _NAMESPACE)
_SYMBOL_PATTERNS: Mapping[str, tuple[str, ...]] = {
    "Python": _PYTHON,
    "Cython": (*_PYTHON, r"cdef +[\w ]+ (\w+)\("),
    "C": _C,
    "C++": (*_C, _CLASS, _NAMESPACE),
    "Objective-C": (*_C, r"@interface +(\w+)"),
    "CUDA": _C,
    "JavaScript": _SCRIPT,
    "JSX": _SCRIPT,
    "TypeScript": _TYPED_SCRIPT,
    "TSX": _TYPED_SCRIPT,
    "Java": (_CLASS, _INTERFACE, _ENUM),
    "Kotlin": (_CLASS, _INTERFACE, r"object +(\w+)", r"fun +(\w+)"),
    "Scala": (_CLASS, r"object +(\w+)", r"trait +(\w+)", r"def +(\w+)"),
    "Swift": (_CLASS, _STRUCT, _ENUM, r"protocol +(\w+)", r"func +(\w+)"),
    "C#": (_CLASS, _INTERFACE, _STRUCT, _ENUM),
    "Go": (r"func +(?:\([^)\n]{0,200}\) *)?(\w+)", r"type +(\w+) +(?:struct|interface|func)"),
    "Rust": (r"fn +(\w+)", _STRUCT, _ENUM, r"trait +(\w+)", r"impl(?:<[^>]{0,200}>)? +(\w+)"),
    "Ruby": (_CLASS, r"module +(\w+)", r"def +(?:self\.)?(\w+)"),
    "PHP": (_CLASS, _INTERFACE, _FUNCTION),
    "Bash": (_FUNCTION, r"\n(\w+)\(\) *\{"),
    "Protocol Buffer": (r"message +(\w+) *\{", r"service +(\w+) *\{", r"rpc +(\w+)", r"enum +(\w+)"),
    "SQL": (r"(?:CREATE|create) +(?:TABLE|table|VIEW|view) +(?:(?i:if not exists) +)?[\"`]?(\w+)",),
}
_SYMBOLS = {language: tuple(map(re.compile, patterns)) for language, patterns in _SYMBOL_PATTERNS.items()}
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)")
_MARKDOWN_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$")
_UNDERLINE = re.compile(r"^([=\-~^\"'*+#`:.])\1{2,}[ \t]*$")

_PYTHON_IMPORTS = (
    re.compile(r"from +([\w.]+) +import +(\([^)]{0,2000}\)|[^\n#]{0,400})"),
    re.compile(r"import +([\w.]+(?: *, *[\w.]+)*)"),
)
_NAME = re.compile(r"\w+")
_LINK = re.compile(r"\]\(<?([^)\s>#]+)")
_DIRECTIVE = re.compile(r":: *`?<?([\w./\-]+\.\w+)")
_DOC_ROLE = re.compile(r":doc:`(?:[^`<]*<)?([\w./\-]+)")
_SCRIPT_IMPORTS = (re.compile(r"from *['\"]([\w./@\-]+)['\"]"), re.compile(r"require\(['\"]([\w./@\-]+)['\"]\)"))
_REFERENCES: Mapping[str, tuple[re.Pattern[str], ...]] = {
    "Markdown": (_LINK,),
    "reStructuredText": (_DIRECTIVE, _DOC_ROLE),
    "JavaScript": _SCRIPT_IMPORTS,
    "TypeScript": _SCRIPT_IMPORTS,
    "TSX": _SCRIPT_IMPORTS,
    "C": (re.compile(r"#include +\"([\w./\-]+)\""),),
    "C++": (re.compile(r"#include +\"([\w./\-]+)\""),),
    "Protocol Buffer": (re.compile(r"import +\"([\w./\-]+)\""),),
    "Ruby": (re.compile(r"require_relative +['\"]([\w./\-]+)['\"]"),),
    "Bash": (re.compile(r"source +\"?([\w./\-]+)"),),
}


def symbols_of(text: str, language: str) -> list[str]:
    """Names that a source file defines, without repeats."""
    names: dict[str, None] = {}
    for pattern in _SYMBOLS.get(language, ()):
        names.update(dict.fromkeys(pattern.findall(text)))
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
    """What a file refers to, as written: modules that Python imports, paths of links, includes and other imports."""
    found: dict[str, None] = {}
    if language == "Python":
        for module, names in _PYTHON_IMPORTS[0].findall(text):
            found.setdefault(module)
            parent = module if module.endswith(".") else f"{module}."
            found.update((f"{parent}{name}", None) for name in _NAME.findall(names)[:20])
        for modules in _PYTHON_IMPORTS[1].findall(text):
            found.update((module.strip(), None) for module in modules.split(","))
    for pattern in _REFERENCES.get(language, ()):
        found.update(dict.fromkeys(pattern.findall(text)))
    return [target for target in found if len(target) < 200 and "://" not in target][:MAX_REFERENCES]
