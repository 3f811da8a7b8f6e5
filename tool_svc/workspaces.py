"""The door to all files: named workspaces, and snapshots of them that requests work on.

Everything here blocks; callers run it in threads. All objects are thread-safe.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from pkgutil import resolve_name

from svc_common.errors import ErrorReason, ServiceError, invalid_field
from tool_svc.context.base import BaseContext, base_context
from tool_svc.context.material import CountTokens, estimate_tokens
from tool_svc.context.scoped import ScopedView
from tool_svc.index import database
from tool_svc.index.meanings import Meanings
from tool_svc.index.parsers import FolderParser, Parser, SourceParser
from tool_svc.index.refresh import WorkspaceIndex
from tool_svc.index.states import KeptStates, State
from tool_svc.workspace import git, reading
from tool_svc.workspace.filesystem import FilesystemSource
from tool_svc.workspace.gittree import GitTreeSource
from tool_svc.workspace.reading import FilesRead
from tool_svc.workspace.refusal import (
    NOT_FOUND,
    OUT_OF_SCOPE,
    UNREADABLE,
    Refusal,
    RefusalCode,
    RefusedError,
    refused,
    too_large,
)
from tool_svc.workspace.scope import WHOLE, Scope
from tool_svc.workspace.source import FileSource, FileState, Listing, RawFile, SourceError
from tool_svc.workspace.text import text_of

DEFAULT_MAX_FILE_BYTES = 2 * 1024 * 1024
DEFAULT_LOCK_TIMEOUT_S = 120.0
BUSINESS_TOKENS = 4_000
_WITHHELD = "its content is binary or may hold credentials"


class Workspaces:
    """The configured workspaces, by name: a folder, or a bare git repository with `@revision` behind it if not at HEAD.

    The index of each is kept beneath `cache`. `embeddings` names an `index.meanings.Embed` as module:function; without one
    files are not ranked by meaning. Raises ServiceError INVALID_ARGUMENT when a root is neither.
    """

    def __init__(
        self,
        roots: Mapping[str, str | Path],
        cache: Path,
        *,
        max_file_bytes: int = DEFAULT_MAX_FILE_BYTES,
        lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S,
        embeddings: str = "",
    ) -> None:
        self._workspaces = {
            name: _Workspace(name, str(root), cache, max_file_bytes, lock_timeout_s, embeddings)
            for name, root in roots.items()
        }

    @property
    def names(self) -> list[str]:
        """Names of the workspaces."""
        return sorted(self._workspaces)

    def refresh(self, name: str) -> None:
        """Brings the index of a workspace up to date with its files.

        Raises ServiceError: WORKSPACE_NOT_FOUND; SERVICE_UNAVAILABLE when the files cannot be had; OVERLOADED while another process
        builds the index for too long.
        """
        self._workspace(name).refresh()

    def snapshot(self, name: str, scope: Scope = WHOLE) -> WorkspaceSnapshot:
        """A workspace as the last refresh saw it, narrowed to `scope`; the first call refreshes. Raises as `refresh`."""
        workspace = self._workspace(name)
        return WorkspaceSnapshot(workspace, workspace.present(), scope)

    def kept_snapshot(self, name: str, id_: str, scope: Scope = WHOLE) -> WorkspaceSnapshot | None:
        """The workspace in the state of this id, if it was handed out not long ago and its index is sound. Raises
        WORKSPACE_NOT_FOUND."""
        workspace = self._workspace(name)
        state = None if database.is_condemned(workspace.index.path) else workspace.states.take(id_)
        return None if state is None else WorkspaceSnapshot(workspace, state, scope)

    def opened_snapshot(self, name: str, id_: str, scope: Scope = WHOLE) -> WorkspaceSnapshot | None:
        """The workspace in the state of this id, if another process left the index in it just now; refreshes nothing. The state is
        kept as any. Raises WORKSPACE_NOT_FOUND."""
        workspace = self._workspace(name)
        state = workspace.states.take(id_) or workspace.in_index(id_)
        return None if state is None else WorkspaceSnapshot(workspace, state, scope)

    def drop_states(self) -> None:
        """Lets go of all states that are kept."""
        for workspace in self._workspaces.values():
            workspace.states.drop()

    def _workspace(self, name: str) -> _Workspace:
        workspace = self._workspaces.get(name)
        if workspace is None:
            known = ", ".join(self.names)
            raise ServiceError(
                ErrorReason.WORKSPACE_NOT_FOUND, f"there is no workspace {name[:64]!r}; there are {known}"
            )
        return workspace


class _Workspace:
    """The parts that serve one root."""

    def __init__(
        self, name: str, root: str, cache: Path, max_file_bytes: int, lock_timeout_s: float, embeddings: str
    ) -> None:
        folder, _, revision = (root, "", "") if Path(root).is_dir() else root.rpartition("@")
        self.name = name
        self.root = Path(folder).resolve()
        if not self.root.is_dir():
            raise invalid_field(f"workspaces.{name}", f"{root} is not a folder")
        self.max_file_bytes = max_file_bytes
        self.source: FileSource
        parser: Parser
        if revision or git.is_bare(self.root):
            try:
                self.source = GitTreeSource(self.root, revision or "HEAD", max_file_bytes=max_file_bytes)
            except SourceError as error:
                raise invalid_field(f"workspaces.{name}", f"{root} is not a git repository with that commit") from error
            parser = SourceParser(self.source, max_file_bytes=max_file_bytes)
        else:
            self.source = FilesystemSource(self.root, max_file_bytes=max_file_bytes)
            parser = FolderParser(self.root, max_file_bytes=max_file_bytes)
        directory = cache / _cache_name(self.root, revision)
        self.index = WorkspaceIndex(self.source, parser, self.root, directory, lock_timeout_s=lock_timeout_s)
        self.states = KeptStates(self.index.path)
        self.meanings = (
            Meanings(directory / "meanings.sqlite", embeddings, resolve_name(embeddings)) if embeddings else None
        )
        self._listing: Listing | None = None

    def refresh(self) -> Listing:
        try:
            self._listing = self.index.refresh()
        except SourceError as error:
            message = f"the files of the workspace {self.name} cannot be had: {error}"
            raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, message) from error
        return self._listing

    def present(self) -> State:
        """Takes the state of the last refresh, or a later one when another process has refreshed since."""
        listing = self._listing or self.refresh()
        view = self.index.view()
        kept = self.states.take(view.id)
        if kept is not None and kept.view.generation == view.generation:
            view.close()
            return kept
        if kept is not None:
            self.states.give_back(kept)
        return self.states.keep(view, lambda: listing)

    def in_index(self, id_: str) -> State | None:
        """Takes the state of this id if the index is in it."""
        view = self.index.view()
        if view.id != id_:
            view.close()
            return None
        return self.states.keep(view, functools.cache(self.source.listing))


class WorkspaceSnapshot:
    """One state of a workspace, as long as this object lives or until `close`. Also a context manager.

    `id` names the state: `git:<commit>+<hash over paths and contents>`, or `files:<hash>` where there is no commit.
    `commit` is that commit in full, or empty. `view` is the state as context preparation sees it, `root` the folder, `scope` what
    it is narrowed to. `has_differed` says whether a file that was read was no longer as in this state: what rests on it is not a
    result of this state alone.
    """

    def __init__(self, workspace: _Workspace, state: State, scope: Scope) -> None:
        self._workspace = workspace
        self._state = state
        self.scope = scope
        self.id = state.view.id
        self.commit = state.view.commit
        self.has_differed = False
        self.root = workspace.root
        self.view = ScopedView(state.view, scope, self._text, workspace.meanings)

    def __enter__(self) -> WorkspaceSnapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the state; nothing may be asked afterwards."""
        self._workspace.states.give_back(self._state)

    @property
    def files_total(self) -> int:
        """Files in scope."""
        return len(self.view.files)

    def holds(self, path: str) -> bool:
        """Whether there is a file at `path` (normal spelling) in scope that may be read."""
        return path in self.view.files

    def listing(self, limit: int) -> list[str]:
        """Paths in scope in order, at most `limit`."""
        return sorted(self.view.files)[:limit]

    def skipped(self) -> dict[str, Refusal]:
        """Files and directories in scope that are not read, with the reason."""
        refusals = {**self._state.listing().skipped, **self._withheld}
        return {path: refusal for path, refusal in refusals.items() if self.scope.holds(path)}

    def refusal(self, path: str) -> Refusal | None:
        """Why a normal path is not read in this snapshot; None when it is."""
        if self.holds(path):
            return None
        if not self.scope.holds(path):
            return OUT_OF_SCOPE
        known = self._withheld.get(path) or self._state.listing().skipped.get(path)
        return known or self._workspace.source.refusal(path) or NOT_FOUND

    def read_files(self, paths: Sequence[str], *, max_bytes_per_file: int = 0) -> FilesRead:
        """Texts of files in scope, at most 100. `max_bytes_per_file`: 0 is the default of 64 KiB; 1 MiB is the most."""
        limit = min(max_bytes_per_file or reading.DEFAULT_BYTES_PER_FILE, reading.MAX_BYTES_PER_FILE)
        asked = paths[: reading.MAX_FILES]
        return reading.read_files(self._raw, asked, self.refusal, self._is_expected, max_bytes_per_file=limit)

    def base_context(
        self, now: datetime, *, max_paths: int = 200, count_tokens: CountTokens = estimate_tokens
    ) -> BaseContext:
        """What a coordinator is told before it decides anything."""
        return base_context(
            self.view, now, max_paths=max_paths, business_tokens=BUSINESS_TOKENS, count_tokens=count_tokens
        )

    @functools.cached_property
    def _withheld(self) -> Mapping[str, Refusal]:
        refusals = self._state.view.refusals()
        return {path: Refusal(RefusalCode(code), _WITHHELD) for path, code in refusals.items()}

    def _raw(self, path: str) -> RawFile:
        """A file of this snapshot as it was then, or as it is now where no older state is kept. Raises RefusedError."""
        file, limit = self.view.files[path], self._workspace.max_file_bytes
        source = self._workspace.source
        try:
            kept = source.kept_content(file.content_hash)
            if kept is not None:
                return RawFile(kept, FileState(file.size, file.modified_ns, ""), file.content_hash)
            raw = source.read(path, limit)
            if raw.is_cut:
                raise refused(too_large(limit))
        except (RefusedError, SourceError) as error:
            self.has_differed = True
            raise error if isinstance(error, RefusedError) else refused(UNREADABLE) from error
        if not self._is_expected(path, raw):
            self.has_differed = True
        return raw

    def _is_expected(self, path: str, raw: RawFile) -> bool:
        return raw.content_hash == self.view.files[path].content_hash

    def _text(self, path: str) -> str | None:
        try:
            raw = self._raw(path)
            text = text_of(raw.content)
        except RefusedError:
            return None
        # The mark comes first: of a long text only the start may be shown.
        return text if self._is_expected(path, raw) else f"{reading.CHANGED_MARK}\n{text}"


def _cache_name(root: Path, revision: str) -> str:
    return f"{root.name or 'root'}-{hashlib.sha256(f'{root}@{revision}'.encode()).hexdigest()[:16]}"
