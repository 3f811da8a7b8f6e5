"""The part of a workspace that one request looks at. A scope narrows, it never widens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pathspec import GitIgnoreSpec

from svc_common.errors import ErrorReason, ServiceError
from tool_svc.workspace.ignore import compile_patterns
from tool_svc.workspace.paths import normalise
from tool_svc.workspace.refusal import RefusedError


@dataclass(frozen=True)
class Scope:
    """Which files a request may see. Empty fields do not narrow.

    `include_patterns` and `exclude_patterns` are in gitignore syntax and relative to the root; `directories` are
    workspace-relative. Raises ServiceError PATH_OUTSIDE_WORKSPACE for a directory that leaves the root.
    """

    include_patterns: Sequence[str] = ()
    directories: Sequence[str] = ()
    exclude_patterns: Sequence[str] = ()

    def __post_init__(self) -> None:
        try:
            _ = self._prefixes
        except RefusedError as error:
            raise ServiceError(ErrorReason.PATH_OUTSIDE_WORKSPACE, f"scope.directories: {error}") from error

    @property
    def is_whole(self) -> bool:
        """Whether it holds every file."""
        return not (self.include_patterns or self._prefixes or self.exclude_patterns)

    def holds(self, path: str) -> bool:
        """Whether the file at `path` is part of it."""
        if self._prefixes and not path.startswith(self._prefixes):
            return False
        if self.include_patterns and not self._include.match_file(path):
            return False
        return not self._exclude.match_file(path)

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        if any(directory.strip("/") in {"", "."} for directory in self.directories):
            return ()
        return tuple(f"{normalise(directory)}/" for directory in self.directories)

    @cached_property
    def _include(self) -> GitIgnoreSpec:
        return compile_patterns(self.include_patterns)

    @cached_property
    def _exclude(self) -> GitIgnoreSpec:
        return compile_patterns(self.exclude_patterns)


WHOLE = Scope()
