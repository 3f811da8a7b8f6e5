"""`read_files`: texts of a workspace's files, within limits, with a reason for each that is not given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tool_svc.workspace.paths import normalise
from tool_svc.workspace.refusal import Refusal, RefusalCode, RefusedError
from tool_svc.workspace.source import RawFile
from tool_svc.workspace.text import text_of

DEFAULT_BYTES_PER_FILE = 64 * 1024
MAX_BYTES_PER_FILE = 1024 * 1024
MAX_BYTES_IN_ALL = 2 * 1024 * 1024
MAX_FILES = 100
CHANGED_MARK = "[this file has changed since the snapshot; this is its newer content]"


@dataclass(frozen=True, slots=True)
class FileText:
    """One file as `read_files` gives it.

    `path` is as it was asked for; `size` in bytes; `content` ends with a mark when it was cut. `error` and `error_code`
    are None when the file was read.
    """

    path: str
    content: str
    exists: bool
    size: int
    last_modified: datetime | None
    is_truncated: bool
    error: str | None
    error_code: RefusalCode | None


@dataclass(frozen=True, slots=True)
class FilesRead:
    """Files in the order asked for, and the paths of those that are not there or may not be read."""

    files: tuple[FileText, ...]
    missing: tuple[str, ...]


def read_files(
    read: Callable[[str], RawFile],
    paths: Sequence[str],
    refusal_of: Callable[[str], Refusal | None],
    is_expected: Callable[[str, RawFile], bool],
    *,
    max_bytes_per_file: int = DEFAULT_BYTES_PER_FILE,
    max_bytes_in_all: int = MAX_BYTES_IN_ALL,
) -> FilesRead:
    """Gives up to `max_bytes_per_file` of each file and `max_bytes_in_all` of all together.

    `refusal_of` says of a normal path why it is not read; `read` reads the whole file or raises RefusedError; `is_expected` says
    whether that is the content that the caller works on; any other ends with a mark. Nothing about a file is an error of the
    call.
    """
    files = []
    left = max_bytes_in_all
    for path in paths:
        file = _read(read, path, refusal_of, is_expected, min(max_bytes_per_file, left))
        left -= len(file.content.encode())
        left = max(left, 0)
        files.append(file)
    return FilesRead(tuple(files), tuple(file.path for file in files if not file.exists))


def _read(
    read: Callable[[str], RawFile],
    path: str,
    refusal_of: Callable[[str], Refusal | None],
    is_expected: Callable[[str, RawFile], bool],
    limit: int,
) -> FileText:
    try:
        normal = normalise(path)
        refusal = refusal_of(normal)
        if refusal is not None:
            return _refused(path, refusal)
        raw = read(normal)
        # All of it is looked at, so that a key is recognised wherever it stands.
        content = text_of(raw.content)
        is_cut = len(raw.content) > limit
        if is_cut:
            content = text_of(raw.content[:limit], cut=True)
    except RefusedError as error:
        return _refused(path, error.refusal)
    if is_cut:
        content += f"\n[cut after {limit} of {raw.state.size} bytes]"
    if not is_expected(normal, raw):
        content += f"\n{CHANGED_MARK}"
    modified = datetime.fromtimestamp(raw.state.modified_ns / 1e9, UTC)
    return FileText(path, content, True, raw.state.size, modified, is_cut, None, None)


def _refused(path: str, refusal: Refusal) -> FileText:
    return FileText(path, "", False, 0, None, False, refusal.message, refusal.code)
