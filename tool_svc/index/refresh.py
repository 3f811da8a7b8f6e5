"""Keeping the index of a workspace in step with its files."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from svc_common.errors import ErrorReason, ServiceError
from tool_svc.index import database, history
from tool_svc.index.database import ContentRow, FileRow
from tool_svc.index.parsers import Parser
from tool_svc.index.view import IndexedFile, IndexView, indexed_files
from tool_svc.workspace import git
from tool_svc.workspace.refusal import RefusalCode
from tool_svc.workspace.source import FileSource, Listing

# Contents that no file has any more stay, for branches come and go; past this share of dead ones all is built anew.
_DEAD_CONTENTS_FACTOR = 3
_DEAD_CONTENTS_FREE = 20_000
_CONTENTS_PER_COMMIT = 2_000
_NOT_OPENED = (RefusalCode.UNREADABLE, RefusalCode.NOT_A_FILE, RefusalCode.TOO_LARGE)
_LOCK_POLL_S = 0.05


class WorkspaceIndex:
    """The index of one workspace, in the directory `cache`.

    Thread-safe, and safe beside other processes that do the same.
    """

    def __init__(
        self, source: FileSource, parser: Parser, repository: Path, cache: Path, *, lock_timeout_s: float
    ) -> None:
        self._source = source
        self._parser = parser
        self._repository = repository
        self._cache = cache
        self._lock_timeout_s = lock_timeout_s
        self._lock = threading.Lock()
        self._generation = ""
        self._signatures: dict[str, str] = {}
        self._files: tuple[str, Mapping[str, IndexedFile]] = ("", {})
        self.path = cache / "index.sqlite"

    def refresh(self) -> Listing:
        """Brings the index up to the files as they are now, and returns their listing.

        Costs one look at every file's state when nothing changed, and the parsing of what did. Raises ServiceError
        OVERLOADED when another process has been building for longer than the lock's time limit.
        """
        with self._lock:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                return self._refreshed()
            except sqlite3.DatabaseError as error:
                if not database.is_damage(error):
                    raise
                database.condemn(self.path)
                return self._refreshed()

    def view(self) -> IndexView:
        """The state of the last refresh, or a later one when another process has refreshed since."""
        view = IndexView(self.path)
        with ExitStack() as stack:
            stack.callback(view.close)
            with self._lock:
                # Reading a hundred thousand rows takes longer than a query should; views of one state share what the first
                # one read.
                generation, files = self._files
                if view.generation == generation:
                    view.share_files(files)
                else:
                    self._files = view.generation, view.files()
            stack.pop_all()
        return view

    def _refreshed(self) -> Listing:
        meta: Mapping[str, str] = {}
        if database.is_current(self.path):
            with closing(database.connect(self.path)) as connection:
                meta = self._load(connection)
        generation = self._generation
        listing, commit = self._present_files()
        if self._is_in_step(meta, listing, commit):
            return listing
        with self._builders_lock():
            database.prepare(self.path)
            with closing(database.connect(self.path)) as connection:
                meta = self._load(connection)
                if self._generation != generation:
                    # Another process has built meanwhile, from files that may be newer than those listed above.
                    listing, commit = self._present_files()
                if not self._is_in_step(meta, listing, commit):
                    self._update(connection, listing, commit)
        return listing

    def _present_files(self) -> tuple[Listing, str]:
        return self._source.listing(), self._source.commit() or ""

    def _is_in_step(self, meta: Mapping[str, str], listing: Listing, commit: str) -> bool:
        return meta.get(database.COMMIT) == commit and not any(self._differences(listing))

    def _load(self, connection: sqlite3.Connection) -> dict[str, str]:
        """Reads what the index knows, unless that is what we read last time."""
        connection.execute("BEGIN")
        meta = database.read_meta(connection)
        if meta.get(database.GENERATION, "") != self._generation or not self._generation:
            self._signatures = database.read_signatures(connection)
            self._generation = meta.get(database.GENERATION, "")
        connection.execute("COMMIT")
        return meta

    def _differences(self, listing: Listing) -> tuple[list[str], list[str]]:
        """(files to read, files to forget)."""
        known = self._signatures
        stale = [path for path, state in listing.files.items() if known.get(path) != state.signature]
        gone = [path for path in known if path not in listing.files]
        return stale, gone

    def _update(self, connection: sqlite3.Connection, listing: Listing, commit: str) -> None:
        contents, live = connection.execute(
            "SELECT (SELECT count(*) FROM content), (SELECT count(*) FROM file)"
        ).fetchone()
        if contents <= _DEAD_CONTENTS_FACTOR * live + _DEAD_CONTENTS_FREE:
            self._build(connection, listing, commit)
            return
        # In one transaction, so that readers see the state before until all is there again.
        with database.transaction(connection):
            database.forget_everything(connection)
            self._generation, self._signatures, self._files = "", {}, ("", {})
            self._build(connection, listing, commit)

    def _build(self, connection: sqlite3.Connection, listing: Listing, commit: str) -> None:
        stale, gone = self._differences(listing)
        files = self._parse(connection, stale, listing)
        with database.transaction(connection):
            database.remove_files(connection, [*gone, *(path for path, file in files.items() if file is None)])
            database.put_files(connection, (file for file in files.values() if file is not None))
            self._update_history(connection, commit)
            generation = os.urandom(8).hex()
            database.write_meta(
                connection,
                {database.GENERATION: generation, database.COMMIT: commit, database.TREE: tree_digest(connection)},
            )
        self._remember(connection, generation, files, gone)

    def _remember(
        self, connection: sqlite3.Connection, generation: str, files: Mapping[str, FileRow | None], gone: list[str]
    ) -> None:
        """Takes over what was just written; reading everything back would take longer than all the rest."""
        seen_generation, seen = self._files
        if seen_generation == self._generation:
            kept = {path: file for path, file in seen.items() if path not in files}
            kept |= indexed_files(connection, files)
            for path in gone:
                kept.pop(path, None)
            self._files = generation, kept
        for path in gone:
            del self._signatures[path]
        for path, file in files.items():
            if file is None:
                self._signatures.pop(path, None)
            else:
                self._signatures[path] = file.signature
        self._generation = generation

    def _parse(self, connection: sqlite3.Connection, stale: list[str], listing: Listing) -> dict[str, FileRow | None]:
        """Reads and parses files, keeps their contents, and returns their rows; None for one that is gone."""
        files: dict[str, FileRow | None] = {}
        contents: list[ContentRow] = []
        for batch in self._parser.parse(stale):
            for parsed in batch:
                files[parsed.path] = parsed.file
                if parsed.file is not None and parsed.file.refusal in _NOT_OPENED:
                    # It was never opened, so the listing's state is all there is; that it stays the same must not mean a new try.
                    files[parsed.path] = replace(parsed.file, signature=listing.files[parsed.path].signature)
                if parsed.content is not None:
                    contents.append(parsed.content)
            # Contents are true whatever happens next, so a build that is killed goes on from those committed.
            if len(contents) >= _CONTENTS_PER_COMMIT:
                database.add_contents(connection, contents)
                contents = []
        database.add_contents(connection, contents)
        return files

    def _update_history(self, connection: sqlite3.Connection, commit: str) -> None:
        known = database.read_meta(connection).get(database.HISTORY, "")
        if commit == known:
            return
        since: str | None = known
        if not known or not commit or not history.is_ancestor(self._repository, known, commit):
            database.forget_changes(connection)
            since = None
        if commit:
            try:
                database.add_changes(connection, history.commits(self._repository, commit, since))
            except git.GitError:
                # Too slow or damaged: the history is a help, not the matter. The next commit tries again.
                database.forget_changes(connection)
        database.write_meta(connection, {database.HISTORY: commit})

    @contextmanager
    def _builders_lock(self) -> Iterator[None]:
        """Held by the one process that writes. The kernel lets go of it when that process dies."""
        handle = os.open(self._cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + self._lock_timeout_s
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        message = "another process is still building the index of this workspace"
                        raise ServiceError(ErrorReason.OVERLOADED, message, retry_after=1.0) from None
                    time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(handle)


def tree_digest(connection: sqlite3.Connection) -> str:
    """A hash over path and content of every file of the present state."""
    digest = hashlib.sha256()
    query = "SELECT path, coalesce(hash, refusal) FROM file LEFT JOIN content ON content.id = content_id ORDER BY path"
    for path, content in connection.execute(query):
        digest.update(f"{path}\0{content}\n".encode())
    return digest.hexdigest()[:32]
