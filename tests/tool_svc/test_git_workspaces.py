"""What git adds to a workspace: commits as workspaces, history, and git itself when it fails or is led astray."""

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


def test_history_follows_commits_and_rewritten_ones(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = commit(root, "Add leases\n\nThey expire.", {"lease.py": "1", "docs/lease.md": "1"})
    second = commit(root, "Renew leases", {"lease.py": "2"})
    workspaces = Workspaces({"w": root}, tmp_path / "cache")
    with workspaces.snapshot("w") as snapshot:
        assert snapshot.id.startswith(f"git:{second[:12]}+")
        changes = snapshot.view.recent_changes(10)
        assert [(change.message, change.paths) for change in changes] == [
            ("Renew leases", ("lease.py",)),
            ("Add leases\n\nThey expire.", ("docs/lease.md", "lease.py")),
        ]
    git(root, "reset", "-q", "--hard", first)
    third = commit(root, "Fence leases", {"fence.py": "1"})
    workspaces.refresh("w")
    with workspaces.snapshot("w") as snapshot:
        assert [change.hash for change in snapshot.view.recent_changes(10)] == [third, first]


def test_a_key_in_a_commit_message_goes_no_further(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, "Rotate AKIA" + "Q3EGV7XJ2LKMNP4R now", {"a.py": "1"})
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        (change,) = snapshot.view.recent_changes(5)
        assert change.message == "(message withheld: may hold credentials)"
        assert change.paths == ("a.py",)


def test_a_repository_cannot_make_git_run_programs(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, "Start", {"a.py": "1"})
    mark = tmp_path / "ran"
    for key in ("core.fsmonitor", "core.pager", "gpg.program", "diff.external", "core.sshCommand", "core.askPass"):
        git(root, "config", key, f"touch {mark};")
    git(root, "config", "log.showSignature", "true")
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        assert len(snapshot.view.recent_changes(5)) == 1
    assert not mark.exists()


def test_a_commit_of_a_bare_repository_is_a_workspace(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = commit(root, "Start", {"a.py": '"""Old."""\n', "link": "", "scratchpad/x.md": "", ".env": "A=1"})
    (root / "link").unlink()
    (root / "link").symlink_to("/etc/passwd")
    commit(root, "Change", {"a.py": '"""New."""\n', "b.py": ""})
    git(tmp_path, "clone", "-q", "--bare", "root", "bare.git")
    workspaces = Workspaces(
        {"head": tmp_path / "bare.git", "old": f"{tmp_path / 'bare.git'}@{first}"}, tmp_path / "cache"
    )
    with workspaces.snapshot("head") as head, workspaces.snapshot("old") as old:
        assert head.listing(10) == ["a.py", "b.py"]
        assert old.listing(10) == ["a.py", "link"]
        read = head.read_files(["a.py", "link", ".env", "scratchpad/x.md", "none.py"]).files
        assert [file.content or file.error_code for file in read] == [
            '"""New."""\n', "NOT_A_FILE", "SECRET", "IGNORED", "NOT_FOUND",
        ]  # fmt: skip
        assert old.read_files(["a.py"]).files[0].content == '"""Old."""\n'
        assert old.id.startswith(f"git:{first[:12]}+")
    with pytest.raises(ServiceError) as caught:
        Workspaces({"none": f"{tmp_path / 'bare.git'}@nosuch"}, tmp_path / "cache")
    assert caught.value.reason is ErrorReason.INVALID_ARGUMENT
