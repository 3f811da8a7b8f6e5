"""Asking git about a repository that nobody vouches for.

A repository's own configuration can name programs (hooks, pagers, filters, signature checks, file system monitors) and
remotes. Nothing here may start one or open a connection: only commands that read the object store are used, with every
such setting overruled.
"""

from __future__ import annotations

import os
import subprocess
import threading
import weakref
from pathlib import Path

TIMEOUT_S = 20.0

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
)


class GitError(Exception):
    """git is missing, took too long, or refused; the message is git's own first line."""


def run(root: Path, *arguments: str, timeout_s: float = TIMEOUT_S, max_bytes: int = 256 * 1024 * 1024) -> bytes:
    """Standard output of one git command run in `root`. Raises GitError."""
    try:
        done = subprocess.run(
            _command(*arguments),
            cwd=root,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(f"git {arguments[0]}: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitError(lines[0] if lines else f"git {arguments[0]} ended with {done.returncode}")
    if len(done.stdout) > max_bytes:
        raise GitError(f"git {arguments[0]} gave more than {max_bytes} bytes")
    return done.stdout


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
    """Reads objects of a repository through one git process, which ends with this object.

    Thread-safe. Raises GitError when the process fails.
    """

    def __init__(self, repository: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                _command("cat-file", "--batch"),
                cwd=repository,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise GitError(f"git cat-file: {error}") from error
        weakref.finalize(self, _end, self._process)

    def read(self, object_id: str) -> bytes:
        """The content of an object."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with self._lock:
            try:
                requests.write(f"{object_id}\n".encode("ascii"))
                requests.flush()
                header = answers.readline().split()
                if len(header) != 3:
                    raise GitError(f"git cat-file: no object {object_id}")
                content = answers.read(int(header[2]) + 1)
            except OSError as error:
                raise GitError(f"git cat-file: {error}") from error
        return content[:-1]


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
