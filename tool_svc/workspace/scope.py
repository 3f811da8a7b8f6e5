"""The part of a workspace that one request looks at. A scope narrows, it never widens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pathspec import GitIgnoreSpec

from tool_svc.workspace.ignore import compile_patterns
from tool_svc.workspace.paths import normalise


@dataclass(frozen=True, slots=True)
class Scope:
    """Which files a request may see. Empty fields do not narrow.

    `include_patterns` and `exclude_patterns` are in gitignore syntax and relative to the root; `directories` are
    workspace-relative. Raises RefusedError OUTSIDE_WORKSPACE for a directory that leaves the root.
    """

    include_patterns: Sequence[str] = ()
    directories: Sequence[str] = ()
    exclude_patterns: Sequence[str] = ()
    _include: GitIgnoreSpec = field(init=False, repr=False, compare=False)
    _exclude: GitIgnoreSpec = field(init=False, repr=False, compare=False)
    _directories: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole = any(directory.strip("/") in {"", "."} for directory in self.directories)
        directories = () if whole else tuple(f"{normalise(directory)}/" for directory in self.directories)
        object.__setattr__(self, "_directories", directories)
        object.__setattr__(self, "_include", compile_patterns(self.include_patterns))
        object.__setattr__(self, "_exclude", compile_patterns(self.exclude_patterns))

    @property
    def is_whole(self) -> bool:
        """Whether it holds every file."""
        return not (self.include_patterns or self._directories or self.exclude_patterns)

    def holds(self, path: str) -> bool:
        """Whether the file at `path` is part of it."""
        if self._directories and not path.startswith(self._directories):
            return False
        if self.include_patterns and not self._include.match_file(path):
            return False
        return not self._exclude.match_file(path)


WHOLE = Scope()
