"""Paths in a model's answer: those it invented are taken out and counted. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

PATH_FIELDS = frozenset(
    {
        "path",
        "file_path",
        "file",
        "files",
        "supporting_files",
        "source_documents",
        "file_paths",
        "paths",
        "changed_files",
    }
)
"""Fields of the tools' answers that hold a path or a list of paths, at any depth."""

# Models like to point at a place in a file: "src/a.py:12", "src/a.py#L3-L9".
_PLACE = re.compile(r"(?::\d+(?:[-:]\d+)*|#L\d+(?:-L?\d+)?)$")
_REMOVED = object()


@dataclass(frozen=True, slots=True)
class ValidatedPaths:
    """An answer without invented paths.

    `paths` are the real ones that it names, in the workspace's spelling and in order of first mention; `removed` those
    taken out, each as often as it was named.
    """

    result: Any
    paths: tuple[str, ...]
    removed: tuple[str, ...]


def validate_paths(result: Any, known: Collection[str], new_path_fields: Collection[str] = ()) -> ValidatedPaths:
    """Takes every path that is not in `known` out of `result` (JSON), and brings the others into one spelling.

    An object whose own path is invented goes as a whole, for the rest of it is about a file that does not exist.
    Beneath a field named in `new_path_fields` a path may also be new, as long as its directory exists.
    """
    check = _Check(known, frozenset(new_path_fields))
    cleaned = check.value(result, new_allowed=False)
    return ValidatedPaths({} if cleaned is _REMOVED else cleaned, tuple(check.named), tuple(check.removed))


class _Check:
    def __init__(self, known: Collection[str], new_path_fields: frozenset[str]) -> None:
        self._known = known
        self._new_path_fields = new_path_fields
        self._directories: set[str] | None = None
        self.named: dict[str, None] = {}
        self.removed: list[str] = []

    def value(self, value: Any, *, new_allowed: bool) -> Any:
        """The cleaned value; `_REMOVED` for an object that has to go."""
        if isinstance(value, Mapping):
            return self._object(value, new_allowed)
        if isinstance(value, list):
            cleaned = (self.value(item, new_allowed=new_allowed) for item in value)
            return [item for item in cleaned if item is not _REMOVED]
        return value

    def _object(self, value: Mapping[str, Any], new_allowed: bool) -> Any:
        cleaned: dict[str, Any] = {}
        for name, item in value.items():
            allowed = new_allowed or name in self._new_path_fields
            if name in PATH_FIELDS and isinstance(item, str):
                path = self._resolved(item, allowed)
                if path is None:
                    return _REMOVED
                cleaned[name] = path
            elif name in PATH_FIELDS and isinstance(item, list):
                cleaned[name] = self._list(item, allowed)
            else:
                kept = self.value(item, new_allowed=allowed)
                cleaned[name] = None if kept is _REMOVED else kept
        return cleaned

    def _list(self, items: list[Any], new_allowed: bool) -> list[Any]:
        kept = (
            self._resolved(item, new_allowed) if isinstance(item, str) else self.value(item, new_allowed=new_allowed)
            for item in items
        )
        return [item for item in kept if item is not None and item is not _REMOVED]

    def _resolved(self, path: str, new_allowed: bool) -> str | None:
        bare = path.strip().strip("`'\"").replace("\\", "/")
        for spelling in (path, bare, _normal(bare), _normal(_PLACE.sub("", bare))):
            if spelling in self._known:
                self.named.setdefault(spelling)
                return spelling
        normal = _normal(bare)
        if new_allowed and (normal in self._all_directories() or posixpath.dirname(normal) in self._all_directories()):
            return normal
        self.removed.append(path)
        return None

    def _all_directories(self) -> set[str]:
        if self._directories is None:
            self._directories = {""}
            for path in self._known:
                directory = posixpath.dirname(path)
                while directory not in self._directories:
                    self._directories.add(directory)
                    directory = posixpath.dirname(directory)
        return self._directories


def _normal(path: str) -> str:
    return posixpath.normpath(path).lstrip("/") if path else path
