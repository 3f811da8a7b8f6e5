"""The paths in a model's output, checked against the workspace: what the model invented goes. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Fields that hold a path, or a list of them, in the outputs of the tools.
PATH_FIELDS = frozenset(
    {"path", "file_path", "files", "supporting_files", "source_documents", "changed_files", "reference_documentation"}
)
MAX_SOURCE_PATHS = 50

# Models like to point at a place in a file: "src/a.py:12", "src/a.py#L3-L9".
_PLACE = re.compile(r"(?::\d+(?:[-:]\d+)*|#L\d+(?:-L?\d+)?)$")


@dataclass(frozen=True, slots=True)
class CheckedOutput:
    """An output without invented paths. `paths` are the files it names, in order of first mention."""

    output: Mapping[str, Any]
    paths: Sequence[str]
    removed: int


def check_paths(
    output: Mapping[str, Any], known: Collection[str], new_path_fields: Collection[str] = ()
) -> CheckedOutput:
    """Checks every path under a key of `PATH_FIELDS`, at any depth, and brings it into the spelling of the workspace.

    A path that is not in `known` goes together with what is said about it: the list entry that is this string or has it among its
    fields, else the field. Beneath `new_path_fields` a path may also be one of a file still to be made, in a directory that exists.
    """
    checker = _Checker(known, frozenset(new_path_fields))
    kept = checker.fields(output, may_be_new=False)
    return CheckedOutput(kept, list(checker.paths)[:MAX_SOURCE_PATHS], checker.removed)


@dataclass(slots=True)
class _Checker:
    known: Collection[str]
    new_path_fields: Collection[str]
    paths: dict[str, None] = field(default_factory=dict)
    removed: int = 0

    def fields(self, value: Mapping[str, Any], *, may_be_new: bool) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, part in value.items():
            is_path = key in PATH_FIELDS
            new = may_be_new or key in self.new_path_fields
            if isinstance(part, list):
                kept[key] = self._entries(part, is_path, new)
            elif isinstance(part, dict):
                kept[key] = self.fields(part, may_be_new=new)
            elif not is_path or not isinstance(part, str):
                kept[key] = part
            elif (path := self._checked(part, new)) is not None:
                kept[key] = path
        return kept

    def _entries(self, entries: Sequence[Any], are_paths: bool, new: bool) -> list[Any]:
        kept: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                fields = self.fields(entry, may_be_new=new)
                if len(fields) == len(entry):
                    kept.append(fields)
            elif not are_paths or not isinstance(entry, str):
                kept.append(entry)
            elif (path := self._checked(entry, new)) is not None:
                kept.append(path)
        return kept

    def _checked(self, named: str, may_be_new: bool) -> str | None:
        bare = _PLACE.sub("", named.strip().strip("`'\""))
        normal = posixpath.normpath(bare.replace("\\", "/")).lstrip("/")
        for path in (named, bare, normal):
            if path in self.known:
                self.paths.setdefault(path)
                return path
        if may_be_new and self._is_directory(normal if bare.endswith("/") else posixpath.dirname(normal)):
            return normal
        self.removed += 1
        return None

    def _is_directory(self, path: str) -> bool:
        return not path or any(file.startswith(f"{path}/") for file in self.known)
