"""Asking git about a repository that nobody vouches for.

A repository's own configuration can name programs (hooks, pagers, filters, signature checks, file system monitors) and
remotes. Nothing here may start one or open a connection: only commands that read the object store are used, with every
such setting overruled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import weakref
from pathlib import Path

TIMEOUT_S = 20.0
_PIECE = 1024 * 1024
_COMPLAINT_BYTES = 4096

_OVERRULED = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.quotePath=false",
    "log.showSignature=false",
    "log.mailmap=false",
    "diff.external=",
    "protocol.allow=never",
    "safe.directory=*",
    # Packs of any size, in a process that may have little memory.
    "core.packedGitWindowSize=16m",
    "core.packedGitLimit=128m",
)


class GitError(Exception):
    """git is missing, took too long, or refused; the message is git's own first line."""


def run(root: Path, *arguments: str, timeout_s: float = TIMEOUT_S, max_bytes: int = 256 * 1024 * 1024) -> bytes:
    """Standard output of one git command run in `root`. Raises GitError, also when it takes or gives too much."""
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                _command(*arguments),
                cwd=root,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
            )
        except OSError as error:
            raise GitError(f"git {arguments[0]}: {error}") from error
        timer = threading.Timer(timeout_s, process.kill)
        timer.daemon = True
        timer.start()
        try:
            output = _read_all(process, max_bytes)
        finally:
            timer.cancel()
        if len(output) > max_bytes:
            raise GitError(f"git {arguments[0]} gave more than {max_bytes} bytes")
        if process.returncode == -signal.SIGKILL:
            raise GitError(f"git {arguments[0]} was killed, at the latest after {timeout_s} s")
        if process.returncode != 0:
            complaints.seek(0)
            lines = complaints.read(_COMPLAINT_BYTES).decode("utf-8", "replace").strip().splitlines()
            raise GitError(lines[0] if lines else f"git {arguments[0]} ended with {process.returncode}")
        return output


def commit_of(root: Path, revision: str) -> str:
    """Full id of the commit that `revision` names. Raises GitError."""
    commit = f"{revision}^{{commit}}"
    return run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", commit).decode("ascii").strip()


def head(root: Path) -> str | None:
    """The commit that HEAD names; None without a repository, a commit or git itself."""
    try:
        return commit_of(root, "HEAD")
    except GitError:
        return None


def is_bare(folder: Path) -> bool:
    """Whether a folder is itself a git directory, without files checked out beside it."""
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


class ObjectReader:
    """Reads objects of a repository through one git process, which ends with this object. Thread-safe."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._process: _CatFile | None = None

    def read(self, object_id: str) -> bytes | None:
        """The content of an object; None when there is none. Raises GitError when the process fails and another one does too."""
        with self._lock:
            try:
                return self._ask(object_id)
            except OSError:
                self._process = None
            try:
                return self._ask(object_id)
            except OSError as error:
                self._process = None
                raise GitError(f"git cat-file: {error}") from error

    def _ask(self, object_id: str) -> bytes | None:
        self._process = self._process or _CatFile(self._repository)
        return self._process.ask(object_id)


class _CatFile:
    """A process that answers with objects. Raises OSError when it cannot be started or has ended."""

    def __init__(self, repository: Path) -> None:
        process = subprocess.Popen(
            _command("cat-file", "--batch"),
            cwd=repository,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests, self._answers = process.stdin, process.stdout
        weakref.finalize(self, _end, process)

    def ask(self, object_id: str) -> bytes | None:
        self._requests.write(f"{object_id}\n".encode("ascii"))
        self._requests.flush()
        header = self._answers.readline().split()
        if header[1:] == [b"missing"]:
            return None
        size = int(header[2]) if len(header) == 3 else 0
        content = self._answers.read(size + 1)
        if len(content) != size + 1:
            raise BrokenPipeError("it has ended")
        return content[:-1]


def _read_all(process: subprocess.Popen[bytes], limit: int) -> bytes:
    """What a process writes until it ends; it is killed when that is more than `limit` bytes."""
    assert process.stdout is not None
    pieces, size = [], 0
    with process:
        while size <= limit and (piece := os.read(process.stdout.fileno(), _PIECE)):
            pieces.append(piece)
            size += len(piece)
        if size > limit:
            process.kill()
    return b"".join(pieces)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _command(*arguments: str) -> list[str]:
    settings = [part for setting in _OVERRULED for part in ("-c", setting)]
    return ["git", "--no-pager", "--literal-pathspecs", *settings, *arguments]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return kept | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }
