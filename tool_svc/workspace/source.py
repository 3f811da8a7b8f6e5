"""Where the files of a workspace come from: a folder, or one commit of a git repository."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tool_svc.workspace.refusal import Refusal


class SourceError(Exception):
    """The files of a workspace cannot be had at all: the root is gone, or git fails."""


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
    """The start of a file's content, at most as long as was asked for, its state at that moment and git's name of `content`."""

    content: bytes
    state: FileState
    content_hash: str

    @property
    def is_cut(self) -> bool:
        """Whether there is more content than `content`."""
        return self.state.size > len(self.content)


def blob_id(content: bytes) -> str:
    """Git's name of a content, so that a checkout and a commit share what is kept of it."""
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


class FileSource(Protocol):
    """The files of one workspace. Thread-safe. Never gives out what `Listing` does not list as readable."""

    def listing(self) -> Listing:
        """All files at this moment. Refused directories count as one skipped path. Raises SourceError."""

    def read(self, path: str, limit: int) -> RawFile:
        """The first `limit` bytes of a file as it is now. Raises RefusedError, also for a path the listing skips; SourceError."""

    def kept_content(self, content_hash: str) -> bytes | None:
        """The content of this name that a listed file had at some time; None where only the present ones are kept.

        Raises RefusedError when it is kept no longer; SourceError.
        """

    def refusal(self, path: str) -> Refusal | None:
        """Why a path that the listing does not name is not read; None when it is a file that came after the listing."""

    def commit(self) -> str | None:
        """The commit the files were checked out from, or are at; None without git."""
