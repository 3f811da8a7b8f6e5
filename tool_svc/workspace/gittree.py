"""Files of one commit of a git repository, which may be bare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tool_svc.workspace import git
from tool_svc.workspace.paths import never_read
from tool_svc.workspace.refusal import LINK, NOT_A_FILE, NOT_FOUND, UNREADABLE, Refusal, refused, too_large
from tool_svc.workspace.source import FileState, Listing, RawFile, SourceError

_REGULAR, _LINK = ("100644", "100755"), "120000"


class GitTreeSource:
    """A `FileSource` over the commit that `revision` names at each listing; the commit's time stands for each file's.

    Ignore rules do not apply: what is committed is not ignored. Raises SourceError when there is no such commit.
    """

    def __init__(self, repository: Path, revision: str, *, max_file_bytes: int) -> None:
        self._repository = repository
        self._revision = revision
        self._max_file_bytes = max_file_bytes
        self._commit = ""
        self._listing = Listing({}, {})
        self._objects = git.ObjectReader(repository)
        self.listing()

    def listing(self) -> Listing:
        """See `FileSource`. The same object as last time while the revision names the same commit."""
        try:
            commit = git.commit_of(self._repository, self._revision)
            if commit != self._commit:
                self._listing = self._list(commit)
                self._commit = commit
        except git.GitError as error:
            raise SourceError(str(error)) from error
        return self._listing

    def read(self, path: str, limit: int) -> RawFile:
        """See `FileSource`."""
        state = self._listing.files.get(path)
        if state is None:
            raise refused(self._listing.skipped.get(path) or NOT_FOUND)
        return RawFile(self.kept_content(state.signature)[:limit], state, state.signature)

    def kept_content(self, content_hash: str) -> bytes:
        """See `FileSource`. Old contents are there until git collects them."""
        try:
            content = self._objects.read(content_hash)
        except git.GitError as error:
            raise SourceError(str(error)) from error
        if content is None:
            raise refused(UNREADABLE)
        return content

    def refusal(self, path: str) -> Refusal | None:
        """See `FileSource`."""
        return never_read(path) or self._listing.skipped.get(path) or NOT_FOUND

    def commit(self) -> str:
        """See `FileSource`."""
        return self._commit

    def _list(self, commit: str) -> Listing:
        time = git.run(self._repository, "show", "--no-patch", "--format=%ct", "--end-of-options", commit)
        modified_ns = int(time) * 1_000_000_000
        files: dict[str, FileState] = {}
        skipped: dict[str, Refusal] = {}
        output = git.run(self._repository, "ls-tree", "-r", "-l", "-z", "--full-tree", "--end-of-options", commit)
        for path, mode, blob, size in _entries(output):
            refusal = self._refusal_of(path, mode, size)
            if refusal is None:
                files[path] = FileState(size, modified_ns, blob)
            elif path.isprintable():
                skipped[path] = refusal
        return Listing(files, skipped)

    def _refusal_of(self, path: str, mode: str, size: int) -> Refusal | None:
        if mode not in _REGULAR:
            return LINK if mode == _LINK else NOT_A_FILE
        return never_read(path) or (too_large(self._max_file_bytes) if size > self._max_file_bytes else None)


def _entries(output: bytes) -> Iterator[tuple[str, str, str, int]]:
    """(path, mode, object id, size in bytes) of each entry of `git ls-tree -r -l -z`. Pure."""
    for entry in output.split(b"\0"):
        if entry:
            about, _, path = entry.partition(b"\t")
            mode, _, blob, size = about.decode("ascii").split()
            # A name that is not UTF-8 gets a character that no listing accepts.
            yield path.decode("utf-8", "surrogateescape"), mode, blob, int(size) if size.isdigit() else 0
