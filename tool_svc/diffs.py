"""Unified diffs: taken from a repository's commits, cut into files, and rid of what may never be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from tool_svc.workspace import git
from tool_svc.workspace.paths import normalise
from tool_svc.workspace.refusal import Refusal, RefusalCode, RefusedError
from tool_svc.workspace.text import holds_key_material

MAX_DIFF_BYTES = 8 * 1024 * 1024
WITHHELD = "(withheld: may hold what is never read)"

_FILE = re.compile(r"^diff --(?:git|cc|combined) ", re.MULTILINE)
_HEAD_LINE = re.compile(
    r"diff --|index |(?:old |new |deleted file |new file )?mode |(?:dis)?similarity index |(?:rename|copy) (?:from|to) "
    r"|--- |\+\+\+ |Binary files "
)
# What no hunk holds: a line that has no sign, as around the diffs of `git log -p`, or the head of a diff that is not git's.
_NO_HUNK = re.compile(r"^(?:[^ +\-\\@\n]|--- .*\n\+\+\+ .*\n@@)", re.MULTILINE)
_COLUMNS = re.compile(r"@@(@*) ")
_NAME = re.compile(r"(?:--- a/|\+\+\+ b/|(?:rename|copy) (?:from|to) (?!\")|diff --(?:cc|combined) (?!\"))(.+?)\t?$")
_NAMING = re.compile(r"(?:---|\+\+\+|rename|copy|diff --cc|diff --combined) (?!/dev/null$)")
_SAME_PATHS = re.compile(r"diff --git a/(.+) b/\1$")


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What changed in one file. `path` is the new one, or the old one of a file that was removed; `old_paths` are its others."""

    path: str
    old_paths: Sequence[str]
    text: str
    added: int
    removed: int


def commits_diff(root: Path, old: str, new: str) -> str:
    """The diff from commit `old` to commit `new`, or of `new` against its first parent when `old` is empty. Raises git.GitError.

    Only of what is committed: looking at the working tree would run the filters that the repository configures.
    """
    commits = (
        ["--end-of-options", old, new] if old else ["--root", "--diff-merges=first-parent", "--end-of-options", new]
    )
    output = git.run(
        root, "diff-tree", "-r", "-p", "-M", "--no-commit-id", "--no-color", "--no-ext-diff", "--no-textconv", "--relative",
        *commits,
        max_bytes=MAX_DIFF_BYTES,
    )  # fmt: skip
    return output.decode("utf-8", "replace")


def readable_files(diff: str, refusal_of: Callable[[str], Refusal | None]) -> Iterator[FileDiff]:
    """The files of a diff without those that may not be read, as `refusal_of` says of a normal path.

    A file that is not there may have been, and so may be shown. The text is withheld of one that comes from a file that may not
    be read, and of one that looks like a key before or after the change.
    """
    for file in split(diff):
        if _may_be_shown(file.path, refusal_of):
            is_clean = all(_may_be_shown(path, refusal_of) for path in file.old_paths) and not _holds_keys(file.text)
            yield file if is_clean else replace(file, text=WITHHELD)


def split(diff: str) -> Iterator[FileDiff]:
    """The files of a diff in git's format. What stands around them is passed over; so are files without a plain name."""
    starts = [match.start() for match in _FILE.finditer(diff)]
    for start, end in zip(starts, [*starts[1:], len(diff)], strict=True):
        lines = diff[start:end].split("\n")
        head = list(takewhile(_HEAD_LINE.match, lines))
        hunks = _hunks(lines[len(head) :])
        if paths := _paths(head):
            columns = _columns(hunks)
            changes = [line[:columns] for line in hunks if not line.startswith("@@")]
            added, removed = (sum(sign in change for change in changes) for sign in "+-")
            old_paths = tuple(path for path in dict.fromkeys(paths) if path != paths[-1])
            yield FileDiff(paths[-1], old_paths, "\n".join([*head, *hunks]), added, removed)


def _hunks(lines: Sequence[str]) -> list[str]:
    """The lines that belong to hunks, of what follows the head of a file."""
    text = "\n".join(lines)
    if (foreign := _NO_HUNK.search(text)) is not None:
        text = text[: foreign.start()]
    return text.rstrip("\n").split("\n") if text.startswith("@@") else []


def _columns(hunks: Sequence[str]) -> int:
    """How many signs stand before each line: one, or in the diff of a merge one for each parent."""
    return max((len(match[1]) for line in hunks if (match := _COLUMNS.match(line))), default=0) + 1


def _paths(head: Sequence[str]) -> list[str]:
    """The paths that a file's head names, the present one last; none when one of them is not plain."""
    named = [_NAME.match(line) for line in head if _NAMING.match(line)]
    if (same := _SAME_PATHS.match(head[0])) is not None:
        # The only line with a name when no content changed: of an empty file, a mode, a binary one.
        named.insert(0, same)
    return [match[1] for match in named if match is not None] if all(named) else []


def _may_be_shown(path: str, refusal_of: Callable[[str], Refusal | None]) -> bool:
    try:
        refusal = refusal_of(normalise(path))
    except RefusedError:
        return False
    return refusal is None or refusal.code is RefusalCode.NOT_FOUND


def _holds_keys(text: str) -> bool:
    """Whether a file's diff, or the file as it was before or after the change, looks like a key."""
    lines = text.split("\n")
    columns = _columns(lines)
    after = [line[columns:] for line in lines if "-" not in line[:columns]]
    parents = [[line[columns:] for line in lines if _is_in_parent(line[:columns], parent)] for parent in range(columns)]
    return any(holds_key_material("\n".join(side).encode("utf-8", "replace")) for side in (lines, after, *parents))


def _is_in_parent(signs: str, parent: int) -> bool:
    """Whether a parent had a line: one that was removed if its own sign says so, any other unless its sign says that it is new."""
    sign = signs[parent : parent + 1]
    return sign == "-" if "-" in signs else sign != "+"
