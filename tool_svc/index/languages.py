"""Which language a file is written in, and what part it plays in a repository."""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum
from functools import cache

from pygments.lexers import get_all_lexers

CODE_CHANGELOG_NAMES = re.compile(
    r"^(change ?logs?|changes|news|history|release[-_ ]?notes|releases)(\.(md|rst|txt|markdown))?$", re.I
)
MARKDOWN_CHANGELOG = "MARKDOWN_CHANGELOG.md"
DOCUMENT_RELATIONSHIPS = "DOCUMENT_RELATIONSHIPS.md"

_DOCUMENT_SUFFIXES = frozenset({".md", ".markdown", ".mdx", ".rst", ".adoc", ".asciidoc", ".org", ".textile"})
_DOCUMENT_NAMES = re.compile(
    r"^(readme|contributing|authors|install|todo|architecture|design|faq|code_of_conduct|security)\b", re.I
)
_DATA_SUFFIXES = frozenset(
    """.json .jsonl .geojson .csv .tsv .svg .xml .xsd .po .pot .lock .log .html .htm .css .map .ipynb .txt .dat .sum
    .snap .plist .diff .patch .yaml .yml .toml .ini .cfg .conf .properties""".split()  # noqa: SIM905
)
# Suffixes that several of the library's languages claim; the reading that repositories mean.
_PREFERRED = {
    ".c": "C", ".h": "C", ".cpp": "C++", ".cs": "C#", ".css": "CSS", ".go": "Go", ".html": "HTML", ".java": "Java",
    ".js": "JavaScript", ".json": "JSON", ".m": "Objective-C", ".md": "Markdown", ".php": "PHP", ".pl": "Perl",
    ".py": "Python", ".pyi": "Python", ".rb": "Ruby", ".rs": "Rust", ".rst": "reStructuredText", ".s": "GAS",
    ".sh": "Bash", ".sql": "SQL", ".swift": "Swift", ".ts": "TypeScript", ".tsx": "TSX", ".txt": "Text only",
    ".v": "verilog", ".xml": "XML", ".yaml": "YAML", ".yml": "YAML",
}  # fmt: skip


class Role(StrEnum):
    """The part a file plays."""

    CODE = "code"
    DOCUMENT = "document"
    CHANGELOG = "changelog"
    DATA = "data"


def role_of(path: str) -> Role:
    """The part of the file at `path`, by its name."""
    name = posixpath.basename(path)
    if name == MARKDOWN_CHANGELOG or CODE_CHANGELOG_NAMES.match(name):
        return Role.CHANGELOG
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in _DOCUMENT_SUFFIXES:
        return Role.DOCUMENT
    if suffix in {"", ".txt"} and _DOCUMENT_NAMES.match(name):
        return Role.DOCUMENT
    if suffix == ".txt" and path.startswith(("doc/", "docs/")):
        return Role.DOCUMENT
    if suffix in _DATA_SUFFIXES or not language_of(path):
        return Role.DATA
    return Role.CODE


def language_of(path: str) -> str:
    """Name of the language of the file at `path`; "" when its name does not tell."""
    name = posixpath.basename(path)
    by_suffix, by_name = _languages()
    return by_name.get(name) or by_suffix.get(posixpath.splitext(name)[1].lower(), "")


@cache
def _languages() -> tuple[dict[str, str], dict[str, str]]:
    by_suffix: dict[str, str] = {}
    by_name: dict[str, str] = {}
    for language, _, patterns, _ in get_all_lexers(plugins=False):
        for pattern in patterns:
            if pattern.startswith("*.") and not any(mark in pattern[1:] for mark in "*?["):
                by_suffix.setdefault(pattern[1:].lower(), language)
            elif not any(mark in pattern for mark in "*?["):
                by_name.setdefault(pattern, language)
    return by_suffix | _PREFERRED, by_name
