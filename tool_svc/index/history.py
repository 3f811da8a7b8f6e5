"""Which commits changed which files, from one bounded `git log`."""

from __future__ import annotations

from pathlib import Path

from tool_svc.index.database import ChangeRow
from tool_svc.workspace import git
from tool_svc.workspace.text import holds_key_material

MAX_COMMITS = 5_000
MAX_MESSAGE_CHARACTERS = 2_000
MAX_FILES_PER_COMMIT = 200
_WITHHELD = "(message withheld: may hold credentials)"

# Control characters that git writes between fields; a message may hold anything but NUL.
_FORMAT = "%x00%x01%H%x00%ct%x00%B%x00"


def commits(root: Path, until: str, since: str | None = None) -> list[ChangeRow]:
    """The last commits that lead to `until` and not to `since`, oldest first, with files relative to `root`. Raises
    git.GitError.

    Merges are left out: what they changed stands in the commits they merged.
    """
    output = git.run(
        root, "log", "-z", "--no-merges", "--no-renames", "--name-only", "--relative", f"--max-count={MAX_COMMITS}",
        f"--format={_FORMAT}", "--end-of-options", until if since is None else f"{since}..{until}", "--", ".",
    )  # fmt: skip
    return parse_log(output)


def is_ancestor(root: Path, old: str, new: str) -> bool:
    """Whether `old` is in the history of `new`."""
    try:
        git.run(root, "merge-base", "--is-ancestor", old, new)
    except git.GitError:
        return False
    return True


def parse_log(output: bytes) -> list[ChangeRow]:
    """The commits in what `git log` wrote in our format, oldest first. Pure."""
    rows = []
    for record in output.split(b"\0\x01")[1:]:
        commit, time, message, *rest = record.split(b"\0")
        names = [name.decode("utf-8", "replace").lstrip("\n") for name in rest]
        paths = tuple(name for name in names if name)
        rows.append(
            ChangeRow(
                commit.decode("ascii"),
                int(time),
                _WITHHELD
                if holds_key_material(message)
                else message.decode("utf-8", "replace").strip()[:MAX_MESSAGE_CHARACTERS],
                # A commit that touches everything says nothing about any one file.
                paths if len(paths) <= MAX_FILES_PER_COMMIT else (),
            )
        )
    return rows[::-1]
