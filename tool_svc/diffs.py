"""Unified diffs: taken from a repository's commits, cut into files, and rid of what may never be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tool_svc.workspace import git
from tool_svc.workspace.paths import never_read
from tool_svc.workspace.text import holds_key_material

MAX_DIFF_BYTES = 8 * 1024 * 1024

_FILE = re.compile(r"^diff --git ", re.MULTILINE)
_NEW_PATH = re.compile(r"^(?:\+\+\+ b/|rename to )(.+?)\t?$", re.MULTILINE)
_OLD_PATH = re.compile(r"^--- a/(.+?)\t?$", re.MULTILINE)
_SAME_PATHS = re.compile(r"^a/(.+) b/\1$")
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What changed in one file. `path` is the new one, or the old one of a file that was removed."""

    path: str
    text: str
    added: int
    removed: int


def commits_diff(root: Path, since: str) -> str:
    """The diff from commit `since` to HEAD, or of HEAD against its first parent when `since` is empty. Raises git.GitError.

    Only of what is committed: looking at the working tree would run the filters that the repository configures.
    """
    old = since or _first_parent(root)
    output = git.run(
        root, "diff-tree", "-r", "-p", "-M", "--no-color", "--no-ext-diff", "--no-textconv", "--relative",
        "--end-of-options", old, "HEAD",
        max_bytes=MAX_DIFF_BYTES,
    )  # fmt: skip
    return output.decode("utf-8", "replace")


def readable_files(diff: str, is_in_scope: Callable[[str], bool]) -> Iterator[FileDiff]:
    """The files of a diff, without those that may never be read or are out of scope. Content that looks like a key is withheld."""
    for file in split(diff):
        if never_read(file.path) is None and is_in_scope(file.path):
            secret = holds_key_material(file.text.encode("utf-8", "replace"))
            yield FileDiff(file.path, "(withheld: may hold credentials)", file.added, file.removed) if secret else file


def split(diff: str) -> Iterator[FileDiff]:
    """The files of a diff in git's format. What stands before the first one is passed over; so are files without a plain name."""
    starts = [match.start() for match in _FILE.finditer(diff)]
    for start, end in zip(starts, [*starts[1:], len(diff)], strict=True):
        text = diff[start:end]
        head, _, hunks = text.partition("\n@@")
        if (path := _path_of(head)) is not None:
            lines = f"\n@@{hunks}".split("\n") if hunks else []
            added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
            yield FileDiff(path, text.rstrip("\n"), added, removed)


def _path_of(head: str) -> str | None:
    for pattern in (_NEW_PATH, _OLD_PATH):
        if match := pattern.search(head):
            return match[1]
    # No content changed: an empty file, a mode, a binary one. Both names are the same then.
    first = head.split("\n", 1)[0].removeprefix("diff --git ")
    match = _SAME_PATHS.match(first)
    return match[1] if match else None


def _first_parent(root: Path) -> str:
    try:
        return git.run(root, "rev-parse", "--verify", "--quiet", "HEAD^1").decode("ascii").strip()
    except git.GitError:
        return _EMPTY_TREE
