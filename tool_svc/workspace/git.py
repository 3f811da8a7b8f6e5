"""Asking git about a repository that nobody vouches for.

A repository's own configuration can name programs (hooks, pagers, filters, signature checks, file system monitors) and
remotes. Nothing here may start one or open a connection: only commands that read the object store are used, with every
such setting overruled.
"""

from __future__ import annotations

import os
import subprocess
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
    command = ["git", "--no-pager", "--literal-pathspecs"]
    for setting in _OVERRULED:
        command += ["-c", setting]
    try:
        done = subprocess.run(
            [*command, *arguments],
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


def head(root: Path) -> str | None:
    """The commit that HEAD names; None without a repository, a commit or git itself."""
    try:
        return run(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode("ascii").strip()
    except GitError:
        return None


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
