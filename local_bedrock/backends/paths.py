"""Paths of files in texts: told from other words by their form alone. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_EXTENSION = re.compile(
    "py|pyi|md|rst|txt|toml|yaml|yml|json|cfg|ini|sh|sql|proto|js|jsx|ts|tsx|go|rs|java|kt|rb|c|h|cc|cpp|hpp|cs|html|css|"
    "xml|mk|tf|ipynb|swift|scala|php|lua"
)
_BARE_FILES = frozenset({"Makefile", "Dockerfile", "LICENSE", "README", "CHANGELOG"})
_TOKEN = re.compile(r"[\w@+./-]+")
_FILE_IN_FOLDER = re.compile(r"[\w@+.-]*[\w+-]\.[A-Za-z]\w{0,5}")
_OWN_LINE = re.compile(r"[`\"]?([\w@+./-]+)[`\"]?:?\s*")


def is_path(token: str) -> bool:
    """Whether a word without spaces is a relative path of a file."""
    folder, slash, name = token.rpartition("/")
    if "//" in token or token.startswith("/") or not name:
        return False
    if name in _BARE_FILES:
        return True
    stem, dot, extension = name.rpartition(".")
    if slash and folder:
        return _FILE_IN_FOLDER.fullmatch(name) is not None
    return bool(dot and stem) and _EXTENSION.fullmatch(extension) is not None


def paths_in(text: str) -> Iterator[str]:
    """Every path that stands in a text, in order."""
    for match in _TOKEN.finditer(text):
        token = match[0].rstrip("./-").removeprefix("./")
        if is_path(token):
            yield token


def path_in(text: str) -> str:
    """The first path that stands in a text, or an empty string."""
    return next(paths_in(text), "")


def path_line(line: str) -> str:
    """The path that a line is and nothing else, as over the text of a file; or an empty string."""
    match = _OWN_LINE.fullmatch(line)
    path = match[1].removeprefix("./") if match else ""
    return (
        path
        if is_path(path) or ("/" in path and not path.startswith("/") and "//" not in path and path[-1] != "/")
        else ""
    )


def named_among(named: Iterable[str], known: Iterable[str]) -> list[str]:
    """The known paths that are meant by `named`, in the order of those: the path itself, or one that ends in it."""
    meant: dict[str, None] = {}
    listed = list(known)
    for name in named:
        meant |= {path: None for path in listed if path == name or path.endswith(f"/{name}")}
    return list(meant)
