"""Where the files of a workspace come from: a folder, or one commit of a git repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tool_svc.workspace.refusal import Refusal


@dataclass(frozen=True, slots=True)
class FileState:
    """A file as a listing saw it. When `signature` is what it was, the content is too; an empty one proves nothing."""

    size: int
    modified_ns: int
    signature: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files that may be read, and those that are not with the reason. Both by workspace-relative path."""

    files: Mapping[str, FileState]
    skipped: Mapping[str, Refusal]


@dataclass(frozen=True, slots=True)
class RawFile:
    """The start of a file's content, at most as long as was asked for, and its state at that moment."""

    content: bytes
    state: FileState

    @property
    def is_cut(self) -> bool:
        """Whether there is more content than `content`."""
        return self.state.size > len(self.content)


class FileSource(Protocol):
    """The files of one workspace. Thread-safe. Never gives out what `Listing` does not list as readable."""

    def listing(self) -> Listing:
        """All files at this moment. Refused directories count as one skipped path."""

    def read(self, path: str, limit: int) -> RawFile:
        """The first `limit` bytes of a file. Raises RefusedError, also for a path the listing skips."""

    def refusal(self, path: str) -> Refusal | None:
        """Why a path that the listing does not name is not read; None when it is a file that came after the listing."""

    def commit(self) -> str | None:
        """The commit the files were checked out from, or are at; None without git."""
