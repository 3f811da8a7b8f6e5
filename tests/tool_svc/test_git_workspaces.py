"""Workspaces that are commits of a git repository, and git itself when it fails."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from svc_common.errors import ErrorReason, ServiceError
from tests.tool_svc.trees import commit, git, snapshot_of, write_tree
from tool_svc.workspace.git import GitError, run
from tool_svc.workspace.refusal import RefusalCode
from tool_svc.workspaces import Workspaces


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    commit(root, "Start", {"a.py": "a = 1\n", "b.md": "# One\n"})
    return root


@pytest.fixture
def workspaces(root: Path, tmp_path: Path) -> Workspaces:
    return Workspaces({"w": f"{root}@main"}, tmp_path / "cache")


def kill_cat_files() -> None:
    processes = [child for child in psutil.Process().children() if "cat-file" in child.cmdline()]
    assert processes
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_a_snapshot_reads_what_its_commit_holds_wherever_the_revision_moves(tmp_path: Path, object_format: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    git(root, "init", "-q", "-b", "main", f"--object-format={object_format}")
    commit(root, "Start", {"a.py": "a = 1\n", "b.md": "# One\n"})
    workspaces = Workspaces({"w": f"{root}@main"}, tmp_path / "cache")
    with workspaces.snapshot("w") as old:
        git(root, "rm", "-q", "a.py")
        commit(root, "Change", {"b.md": "# Two\n", "c.py": "c = 1\n"})
        workspaces.refresh("w")
        assert [file.content for file in old.read_files(["a.py", "b.md"]).files] == ["a = 1\n", "# One\n"]
        assert old.view.text("b.md") == "# One\n"
        with workspaces.snapshot("w") as new:
            assert [file.content for file in new.read_files(["b.md", "c.py"]).files] == ["# Two\n", "c = 1\n"]
            assert not new.has_differed
        assert not old.has_differed


def test_a_git_process_that_dies_is_replaced(workspaces: Workspaces) -> None:
    with workspaces.snapshot("w") as snapshot:
        kill_cat_files()
        assert snapshot.read_files(["a.py"]).files[0].content == "a = 1\n"


def test_what_git_cannot_give_is_refused_and_there_again_when_it_can(
    workspaces: Workspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workspaces.snapshot("w") as snapshot:
        kill_cat_files()
        with monkeypatch.context() as without_git:
            without_git.setenv("PATH", str(tmp_path))
            assert snapshot.read_files(["a.py"]).files[0].error_code is RefusalCode.UNREADABLE
            with pytest.raises(ServiceError) as caught:
                workspaces.refresh("w")
            assert caught.value.reason is ErrorReason.SERVICE_UNAVAILABLE
        assert snapshot.read_files(["a.py"]).files[0].content == "a = 1\n"


def test_a_content_that_git_has_lost_is_refused_until_it_is_back(
    root: Path, workspaces: Workspaces, tmp_path: Path
) -> None:
    blob = git(root, "rev-parse", "HEAD:a.py")
    with workspaces.snapshot("w") as snapshot:
        (root / ".git/objects" / blob[:2] / blob[2:]).unlink()
        assert snapshot.read_files(["a.py"]).files[0].error_code is RefusalCode.UNREADABLE
        assert snapshot.view.text("b.md") == "# One\n"
    fresh = Workspaces({"w": f"{root}@main"}, tmp_path / "fresh")
    with fresh.snapshot("w") as snapshot:
        assert snapshot.listing(10) == ["b.md"]
    git(root, "hash-object", "-w", "a.py")
    fresh.refresh("w")
    with fresh.snapshot("w") as snapshot:
        assert snapshot.listing(10) == ["a.py", "b.md"]


def test_a_git_that_says_too_much_or_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in {
        "talks": "exec cat /dev/zero",
        "sleeps": "exec sleep 100",
        "fails": "echo no >&2; exit 3",
    }.items():
        fake = write_tree(tmp_path / name, {"git": f"#!/bin/sh\n{script}\n"})
        (fake / "git").chmod(0o755)
    before = set(psutil.Process().children())
    for name, message in {"talks": "more than 1000 bytes", "sleeps": "killed", "fails": "no"}.items():
        monkeypatch.setenv("PATH", f"{tmp_path / name}:/bin:/usr/bin")
        with pytest.raises(GitError, match=message):
            run(tmp_path, "version", timeout_s=0.2 if name == "sleeps" else 20, max_bytes=1000)
    assert set(psutil.Process().children()) <= before


def test_a_repository_that_is_rewritten_meanwhile_is_right_in_the_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, "Start", {f"d{number % 5}/f{number}.py": f"x = {number}\n" for number in range(100)})
    git(root, "clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    stop = threading.Event()

    def rewrite() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            commit(root, f"Change {turn}", {f"d{turn % 5}/f{turn}.py": f"y = {turn}\n"})
            git(root, "checkout", "-q", "-b", f"side{turn}", "HEAD~1")
            commit(root, f"Beside {turn}", {f"side/{turn}.py": "z = 1\n"})
            git(root, "rebase", "-q", "main")
            git(root, "checkout", "-q", "-B", "main", f"side{turn}")
            git(root, "push", "-q", "-f", str(tmp_path / "bare.git"), "main")
            git(tmp_path / "bare.git", "gc", "-q", "--prune=now")

    roots = {"folder": root, "commit": tmp_path / "bare.git"}
    workspaces = Workspaces(roots, tmp_path / "cache")
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(10):
            for name in roots:
                workspaces.refresh(name)
                with workspaces.snapshot(name) as snapshot:
                    assert snapshot.files_total >= 99
                    assert len(snapshot.view.recent_changes(5)) > 0
    finally:
        stop.set()
        writer.join()
    for name, path in roots.items():
        workspaces.refresh(name)
        with workspaces.snapshot(name) as snapshot, snapshot_of(path, tmp_path / "fresh") as fresh:
            assert snapshot.id == fresh.id
            assert snapshot.view.recent_changes(1000) == fresh.view.recent_changes(1000)
