"""Files of a folder on this machine."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tool_svc.workspace import git, surroundings
from tool_svc.workspace.beneath import open_beneath, open_directory, open_file, read_lines, read_up_to
from tool_svc.workspace.ignore import GITIGNORE, IgnoreRules
from tool_svc.workspace.paths import SCRATCHPAD, is_plain_name, never_entered, never_read, never_read_file
from tool_svc.workspace.refusal import (
    IGNORED,
    LINK,
    NOT_A_FILE,
    Refusal,
    RefusedError,
    refused,
    too_large,
)
from tool_svc.workspace.source import FileState, Listing, RawFile, SourceError, blob_id
from tool_svc.workspace.surroundings import IgnoreFile

# A change within this time of another one may carry the same time stamp, so a stamp this fresh proves nothing.
STAMP_GRANULARITY_NS = 100_000_000
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class _SeenFile:
    inode: int
    changed_ns: int
    state: FileState


@dataclass(slots=True)
class _SeenDirectory:
    """One directory as the last walk saw it. `stamp` is None when it proves nothing."""

    stamp: tuple[int, int, int] | None
    inherited: IgnoreRules
    rules: IgnoreRules
    ignore_stamp: tuple[int, int, int] | None
    names: tuple[str, ...] = ()
    subdirectories: tuple[str, ...] = ()
    skipped: Mapping[str, Refusal] = field(default_factory=dict)
    files: dict[str, _SeenFile] = field(default_factory=dict)
    children: dict[str, _SeenDirectory] = field(default_factory=dict)


class FilesystemSource:
    """A `FileSource` over the folder `root`. Files larger than `max_file_bytes` are listed as skipped."""

    def __init__(self, root: Path, *, max_file_bytes: int) -> None:
        self._root = root
        self._max_file_bytes = max_file_bytes
        self._lock = threading.Lock()
        self._seen: _SeenDirectory | None = None
        self._listing = Listing({}, {})
        self._above: tuple[IgnoreFile, ...] = ()
        self._rules_above = IgnoreRules()

    def listing(self) -> Listing:
        """See `FileSource`. The same object as last time when nothing changed; then the cost is one `stat` per file."""
        with self._lock, ExitStack() as stack:
            try:
                root = stack.enter_context(open_directory(str(self._root)))
            except RefusedError as error:
                raise SourceError(f"{self._root}: {error}") from error
            seen = self._look(root, "", self._seen, self._root_rules(), depth=0)
            if seen is not self._seen:
                self._seen = seen
                files: dict[str, FileState] = {}
                skipped: dict[str, Refusal] = {}
                self._flatten(seen, "", files, skipped)
                self._listing = Listing(files, skipped)
            return self._listing

    def read(self, path: str, limit: int) -> RawFile:
        """See `FileSource`."""
        refusal = never_read(path)
        if refusal is not None:
            raise refused(refusal)
        directory, _, name = path.rpartition("/")
        with open_directory(str(self._root)) as root, open_beneath(root, directory) as parent:
            return read_in(parent, name, limit)

    def kept_content(self, content_hash: str) -> None:
        """See `FileSource`."""

    def refusal(self, path: str) -> Refusal | None:
        """See `FileSource`."""
        refusal = never_read(path)
        if refusal is not None:
            return refusal
        try:
            with open_directory(str(self._root)) as root:
                if self._is_ignored(root, path):
                    return IGNORED
                directory, _, name = path.rpartition("/")
                with open_beneath(root, directory) as parent, open_file(parent, name):
                    return None
        except RefusedError as error:
            return error.refusal

    def commit(self) -> str | None:
        """See `FileSource`."""
        return git.head(self._root)

    def _is_ignored(self, root: int, path: str) -> bool:
        """Whether the rules exclude a path, also one where nothing stands."""
        rules = self._root_rules()
        parts = path.split("/")
        for depth in range(len(parts)):
            directory = "/".join(parts[:depth])
            with suppress(RefusedError), open_beneath(root, directory) as handle:
                rules = rules.with_file(directory, read_lines(handle, GITIGNORE))
            if rules.ignores("/".join(parts[: depth + 1]), is_directory=depth + 1 < len(parts)):
                return True
        return False

    def _root_rules(self) -> IgnoreRules:
        """Rules that hold above every `.gitignore` of the folder. One object as long as they stay the same."""
        above = surroundings.ignore_files_above(self._root)
        if above != self._above:
            self._above = above
            self._rules_above = surroundings.rules_of(above)
        return self._rules_above

    def _look(
        self, handle: int, path: str, before: _SeenDirectory | None, inherited: IgnoreRules, depth: int
    ) -> _SeenDirectory:
        """Looks at one directory and all beneath it. Returns `before` itself when nothing changed."""
        status = os.fstat(handle)
        fresh = status.st_ctime_ns > time.time_ns() - STAMP_GRANULARITY_NS
        stamp = None if fresh else (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        same_names = (
            before is not None and stamp is not None and before.stamp == stamp and before.inherited is inherited
        )
        if before is not None and same_names and before.ignore_stamp is None:
            ignore_stamp, rules = None, before.rules
        else:
            ignore_stamp, rules = _rules_of(handle, path, before, inherited)
        if before is not None and same_names and rules is before.rules:
            now = _SeenDirectory(
                stamp, inherited, rules, ignore_stamp, before.names, before.subdirectories, before.skipped
            )
        else:
            now = _SeenDirectory(stamp, inherited, rules, ignore_stamp)
            self._scan(handle, path, now, depth)
            same_names = False
        same_files = self._look_at_files(handle, now, before)
        same_children = self._look_at_children(handle, path, now, before, depth)
        return before if before is not None and same_names and same_files and same_children else now

    def _look_at_files(self, handle: int, now: _SeenDirectory, before: _SeenDirectory | None) -> bool:
        seen = before.files if before is not None else {}
        same = len(seen) == len(now.names)
        for name in now.names:
            try:
                status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            except OSError:  # removed since the scan
                same = False
                continue
            known = seen.get(name)
            if (
                known is not None
                and known.changed_ns == status.st_ctime_ns
                and known.inode == status.st_ino
                and known.state.size == status.st_size
            ):
                now.files[name] = known
            elif stat.S_ISREG(status.st_mode):
                now.files[name] = _SeenFile(status.st_ino, status.st_ctime_ns, _state(status))
                same = False
        return same

    def _look_at_children(
        self, handle: int, path: str, now: _SeenDirectory, before: _SeenDirectory | None, depth: int
    ) -> bool:
        seen = before.children if before is not None else {}
        for name in now.subdirectories:
            try:
                with open_directory(name, beneath=handle) as child:
                    child_path = f"{path}/{name}" if path else name
                    now.children[name] = self._look(child, child_path, seen.get(name), now.rules, depth + 1)
            except RefusedError:  # removed, or swapped for something else since the scan
                continue
        return len(seen) == len(now.children) and all(seen.get(name) is child for name, child in now.children.items())

    def _scan(self, handle: int, path: str, now: _SeenDirectory, depth: int) -> None:
        """Sorts the entries of a directory into files to look at, directories to enter and skipped ones."""
        names, subdirectories, skipped = [], [], {}
        with os.scandir(handle) as entries:
            for entry in entries:
                entry_path = f"{path}/{entry.name}" if path else entry.name
                is_directory = entry.is_dir(follow_symlinks=False)
                refusal = self._refusal_of(entry, entry_path, now.rules, is_directory, depth)
                if refusal is not None:
                    if is_plain_name(entry.name):
                        skipped[entry.name] = refusal
                elif is_directory:
                    subdirectories.append(entry.name)
                else:
                    names.append(entry.name)
        now.names, now.subdirectories, now.skipped = tuple(names), tuple(subdirectories), skipped

    def _refusal_of(
        self, entry: os.DirEntry[str], path: str, rules: IgnoreRules, is_directory: bool, depth: int
    ) -> Refusal | None:
        if is_directory:
            if depth >= MAX_DEPTH or path == SCRATCHPAD:
                return IGNORED
            refusal = never_entered(entry.name)
        elif entry.is_symlink():
            return LINK
        elif not entry.is_file(follow_symlinks=False):
            return NOT_A_FILE
        else:
            refusal = never_read_file(path)
        if refusal is None and rules.ignores(path, is_directory=is_directory):
            return IGNORED
        return refusal

    def _flatten(
        self, seen: _SeenDirectory, prefix: str, files: dict[str, FileState], skipped: dict[str, Refusal]
    ) -> None:
        for name, refusal in seen.skipped.items():
            skipped[prefix + name] = refusal
        for name, file in seen.files.items():
            if file.state.size > self._max_file_bytes:
                skipped[prefix + name] = too_large(self._max_file_bytes)
            else:
                files[prefix + name] = file.state
        for name, child in seen.children.items():
            self._flatten(child, f"{prefix}{name}/", files, skipped)


def read_in(directory: int, name: str, limit: int) -> RawFile:
    """The first `limit` bytes of the file `name` in a directory. Raises RefusedError; its name is the caller's matter."""
    with open_file(directory, name) as handle:
        now_ns = time.time_ns()
        before = os.fstat(handle)
        content = read_up_to(handle, limit)
        after = os.fstat(handle)
    state = _state(before)
    if before.st_ctime_ns != after.st_ctime_ns or before.st_ctime_ns > now_ns - STAMP_GRANULARITY_NS:
        state = FileState(max(len(content), after.st_size), state.modified_ns, "")
    return RawFile(content, state, blob_id(content))


def _state(status: os.stat_result) -> FileState:
    # The change time cannot be set by a program, so no edit hides behind a restored modification time.
    signature = f"{status.st_ino}.{status.st_size}.{status.st_mtime_ns}.{status.st_ctime_ns}"
    return FileState(status.st_size, status.st_mtime_ns, signature)


def _rules_of(
    handle: int, path: str, before: _SeenDirectory | None, inherited: IgnoreRules
) -> tuple[tuple[int, int, int] | None, IgnoreRules]:
    """The stamp of the directory's own ignore file and the rules with it; the same rules object when both stayed the
    same.
    """
    try:
        status = os.stat(GITIGNORE, dir_fd=handle, follow_symlinks=False)
    except OSError:
        return None, inherited
    stamp = (status.st_ino, status.st_size, status.st_ctime_ns)
    if before is not None and before.inherited is inherited and before.ignore_stamp == stamp:
        fresh = status.st_ctime_ns > time.time_ns() - STAMP_GRANULARITY_NS
        if not fresh:
            return stamp, before.rules
    return stamp, inherited.with_file(path, read_lines(handle, GITIGNORE))
