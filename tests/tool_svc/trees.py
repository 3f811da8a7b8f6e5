"""Folders and repositories that tests are about."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tool_svc.workspace.scope import WHOLE, Scope
from tool_svc.workspaces import Workspaces, WorkspaceSnapshot


def write_tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Writes `files` (by relative path) beneath `root`."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def git(root: Path, *arguments: str) -> str:
    """Runs git in `root` as somebody; returns what it prints."""
    environment = os.environ | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
    }  # fmt: skip
    done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root: Path, message: str, files: Mapping[str, str | bytes]) -> str:
    """Writes and commits `files`; returns the commit's id."""
    write_tree(root, files)
    if not (root / ".git").exists():
        git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)
    return git(root, "rev-parse", "HEAD")


def snapshot_of(root: Path, cache: Path, scope: Scope = WHOLE) -> WorkspaceSnapshot:
    """The present state of a folder or repository."""
    workspaces = Workspaces({"it": root}, cache)
    workspaces.refresh("it")
    return workspaces.snapshot("it", scope)
