"""Opening files beneath a root directory, so that no link and no race leads out of it.

Every step down is relative to the handle of the directory above and refuses links, so what a path means cannot change
between the check and the use: whoever swaps a directory for a link while we walk makes the open fail. Links are refused
even when they would stay inside the root. That is simpler than following them safely, and nothing is lost: the file
they lead to stands in the listing under its own path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from tool_svc.workspace.refusal import LINK, NOT_A_FILE, NOT_FOUND, UNREADABLE, RefusedError, refused

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO nobody writes to would wait for ever. It changes nothing for regular files.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

MAX_LINES_BYTES = 1024 * 1024


@contextmanager
def open_directory(name: str, *, beneath: int | None = None) -> Iterator[int]:
    """A handle of the directory `name`, one step beneath the handle `beneath` (or an absolute path without it).

    Raises RefusedError when it is a link, no directory, or not there.
    """
    try:
        handle = os.open(name, _DIRECTORY, dir_fd=beneath)
    except OSError as error:
        raise _refusal(error, name, beneath) from error
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def open_beneath(root: int, path: str) -> Iterator[int]:
    """A handle of the directory at workspace-relative, normal `path` ("" for the root itself) beneath the handle `root`.

    Raises RefusedError: NOT_FOUND, NOT_A_FILE (also for links anywhere in the path), UNREADABLE.
    """
    handle = os.dup(root)
    try:
        for directory in path.split("/") if path else ():
            child = _open(directory, _DIRECTORY, handle)
            os.close(handle)
            handle = child
        yield handle
    finally:
        os.close(handle)


@contextmanager
def open_file(directory: int, name: str) -> Iterator[int]:
    """A handle of the regular file `name` in the directory `directory`. Raises RefusedError as `open_beneath`."""
    handle = _open(name, _FILE, directory)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise refused(NOT_A_FILE)
        yield handle
    finally:
        os.close(handle)


def read_up_to(handle: int, limit: int) -> bytes:
    """At most `limit` bytes from the start of an open file."""
    pieces = []
    left = limit
    while left > 0 and (piece := os.read(handle, left)):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_lines(directory: int, name: str) -> tuple[str, ...]:
    """The lines of the text file `name` in the directory `directory`; none when it cannot be read."""
    try:
        with open_file(directory, name) as handle:
            return tuple(read_up_to(handle, MAX_LINES_BYTES).decode("utf-8", "replace").splitlines())
    except RefusedError:
        return ()


def _open(name: str, flags: int, beneath: int) -> int:
    try:
        return os.open(name, flags, dir_fd=beneath)
    except OSError as error:
        raise _refusal(error, name, beneath) from error


def _refusal(error: OSError, name: str, beneath: int | None) -> RefusedError:
    if error.errno == errno.ENOENT:
        return refused(NOT_FOUND)
    if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EISDIR}:
        return refused(LINK if _is_link(name, beneath) else NOT_A_FILE)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}:
        return refused(UNREADABLE)
    if error.errno == errno.ENAMETOOLONG:
        return refused(NOT_FOUND)
    raise error


def _is_link(name: str, beneath: int | None) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=beneath, follow_symlinks=False).st_mode)
    except OSError:
        return False
