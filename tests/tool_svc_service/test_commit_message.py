"""What the tool that writes commit messages sees: a given diff, what came since a commit, or the last commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc_common.errors import ServiceError
from tests.tool_svc.test_what_is_read import PRIVATE_KEY
from tests.tool_svc.trees import commit, git, snapshot_of
from tool_svc.context.request import ContextRequest
from tool_svc.tools.commit_message import CommitMessage
from tool_svc.workspace.scope import Scope
from tool_svc.workspaces import Workspaces, WorkspaceSnapshot

TOOL = CommitMessage()


def asked(snapshot: WorkspaceSnapshot, **parameters: str) -> tuple[str, str]:
    """(diff, changed files) as the tool's model is shown them."""
    request = ContextRequest("", 4000, TOOL.settled(snapshot, parameters))
    values = TOOL.prepare(snapshot, request).values
    return values["diff"], values["changed_files"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    commit(root, "One", {"a.py": "one\n"})
    commit(root, "Two", {"a.py": "two\n", "b.py": "two\n"})
    commit(root, "Three", {"c.py": "three\n"})
    return root


def test_it_sees_the_last_commit_what_came_since_one_or_the_given_diff(root: Path, tmp_path: Path) -> None:
    (root / "c.py").write_text("four\n")
    given = git(root, "diff")
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        assert asked(snapshot)[1] == "c.py +1 -0"
        diff, changed = asked(snapshot, since="HEAD~2")
        assert changed == "a.py +1 -1\nb.py +1 -0\nc.py +1 -0"
        assert "-one\n+two" in diff
        diff, changed = asked(snapshot, diff=given)
        assert changed == "c.py +1 -1"
        assert "-three\n+four" in diff
        with pytest.raises(ServiceError, match="since"):
            asked(snapshot, since="nosuch")


def test_the_first_commit_and_a_merge_have_a_diff_too(root: Path, tmp_path: Path) -> None:
    git(root, "checkout", "-q", "-b", "side", "HEAD~1")
    commit(root, "Beside", {"side.py": "1\n"})
    git(root, "checkout", "-q", "main")
    git(root, "merge", "-q", "--no-ff", "-m", "Merge", "side")
    with snapshot_of(root, tmp_path / "merged") as snapshot:
        assert asked(snapshot)[1] == "side.py +1 -0"
    with snapshot_of(
        root.with_name(f"root@{git(root, 'rev-list', '--max-parents=0', 'HEAD')}"), tmp_path / "first"
    ) as first:
        assert asked(first)[1] == "a.py +1 -0"


def test_the_last_commit_is_the_one_of_the_snapshot(root: Path, tmp_path: Path) -> None:
    workspaces = Workspaces({"old": f"{root}@HEAD~1", "present": root}, tmp_path / "cache")
    with workspaces.snapshot("old") as old, workspaces.snapshot("present") as present:
        commit(root, "Four", {"d.py": "four\n"})
        assert asked(old)[1] == "a.py +1 -1\nb.py +1 -0"
        assert asked(old, since="HEAD~3")[1] == "a.py +1 -1\nb.py +1 -0"
        assert asked(present)[1] == "c.py +1 -0"


def test_no_commit_shows_what_is_never_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    env = "".join(f"NAME{number}=value{number}\n" for number in range(20))
    first = commit(root, "Start", {
        ".env": env + "PASSWORD=hunter1\n", "key.txt": f"x\n{PRIVATE_KEY}", "local.cfg": "pin = hunter3\n",
        "held.py": f"a = 1\n{'#' * 80}\n# 1\n# 2\n# 3\n# 4\n{PRIVATE_KEY}", "ok.py": "1\n",
    })  # fmt: skip
    git(root, "mv", ".env", "settings.txt")
    commit(root, "Tidy up", {
        "settings.txt": env + "PASSWORD=\n", "key.txt": "x\n", ".gitignore": "local.cfg\n", "local.cfg": "pin = hunter4\n",
        "held.py": f"a = 2\n{'#' * 80}\n# 1\n# 2\n# 3\n# 4\n{PRIVATE_KEY}", "ok.py": "2\n",
    })  # fmt: skip
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        for diff, changed in (asked(snapshot), asked(snapshot, since=first), asked(snapshot, diff=git(root, "show"))):
            assert changed.split("\n") == [".gitignore +1 -0", "key.txt +0 -3", "ok.py +1 -1", "settings.txt +1 -1"]
            assert "hunter" not in diff
            assert "MIIE" not in diff
            assert "-1\n+2" in diff


def test_a_rename_from_outside_the_scope_shows_nothing_of_there(tmp_path: Path) -> None:
    root = tmp_path / "root"
    body = "".join(f"line {number}\n" for number in range(20))
    commit(root, "Start", {"closed/a.py": body + "old = 'hunter'\n"})
    (root / "open").mkdir()
    git(root, "mv", "closed/a.py", "open/a.py")
    commit(root, "Move", {"open/a.py": body + "new = 1\n"})
    with Workspaces({"w": root}, tmp_path / "cache").snapshot("w", Scope(directories=["open"])) as snapshot:
        diff, changed = asked(snapshot)
    assert changed == "open/a.py +1 -1"
    assert "hunter" not in diff
