"""The git repository around a folder, as far as it decides which of the folder's files are ignored.

Read without git, for a rule that is missing because a process could not be started would let ignored files through.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tool_svc.workspace.beneath import open_directory, read_lines
from tool_svc.workspace.ignore import GITIGNORE, IgnoreRules
from tool_svc.workspace.refusal import RefusedError


@dataclass(frozen=True, slots=True)
class IgnoreFile:
    """Lines of an ignore file above a folder; `above` leads from where they hold to the folder, e.g. `services/mail/`."""

    above: str
    lines: tuple[str, ...]


def ignore_files_above(root: Path) -> tuple[IgnoreFile, ...]:
    """The repository's own excludes, and each `.gitignore` from its top folder down to the parent of `root`."""
    for top in (root, *root.parents):
        git_directory = _git_directory(top)
        if git_directory is not None:
            parents = [folder for folder in reversed(root.parents) if folder.is_relative_to(top)]
            return (
                IgnoreFile(_way(top, root), _lines(git_directory / "info", "exclude")),
                *(IgnoreFile(_way(folder, root), _lines(folder, GITIGNORE)) for folder in parents),
            )
    return ()


def rules_of(files: tuple[IgnoreFile, ...]) -> IgnoreRules:
    """The rules of `ignore_files_above`; none when they exclude the folder itself, which somebody named all the same. Pure."""
    rules = IgnoreRules()
    for file in files:
        rules = rules.with_file("", file.lines, above=file.above)
    return IgnoreRules() if rules.ignores("", is_directory=False) else rules


def _git_directory(top: Path) -> Path | None:
    """Where the repository with the files of `top` keeps what all its worktrees share; None when there is none."""
    git = top / ".git"
    if os.path.isdir(git):
        return git
    # A worktree or submodule has a file that points to it.
    for line in _lines(top, ".git")[:1]:
        git = top / line.removeprefix("gitdir:").strip()
        return git.joinpath(*_lines(git, "commondir")[:1])
    return None


def _way(above: Path, root: Path) -> str:
    return "".join(f"{part}/" for part in root.relative_to(above).parts)


def _lines(folder: Path, name: str) -> tuple[str, ...]:
    # What a `.git` file points to may be no path at all.
    with suppress(RefusedError, OSError, ValueError), open_directory(os.path.realpath(folder)) as handle:
        return read_lines(handle, name)
    return ()
