"""The index: in step with files that change, shared by processes that may be killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from svc_common.errors import ErrorReason, ServiceError
from tests.tool_svc.trees import snapshot_of, write_tree
from tool_svc.index import database, refresh
from tool_svc.index.languages import Role
from tool_svc.index.parsers import FolderParser, ParsedFile
from tool_svc.index.refresh import WorkspaceIndex
from tool_svc.index.states import KEPT_SECONDS, KeptStates, State
from tool_svc.index.view import IndexView
from tool_svc.workspace.filesystem import FilesystemSource
from tool_svc.workspace.source import Listing
from tool_svc.workspaces import Workspaces

CAP = 1024 * 1024


class RecordingParser(FolderParser):
    """Remembers what it was asked to parse."""

    def __init__(self, root: Path, **options: int) -> None:
        super().__init__(root, max_file_bytes=CAP, **options)
        self.asked: list[str] = []

    def parse(self, paths: Sequence[str]) -> Iterator[list[ParsedFile]]:
        self.asked += paths
        return super().parse(paths)


class Watched:
    """An index whose parsing is recorded. Time stamps of its files are set back, for fresh ones prove nothing."""

    def __init__(self, root: Path, cache: Path, *, lock_timeout_s: float = 5.0) -> None:
        self.parser = RecordingParser(root)
        source = FilesystemSource(root, max_file_bytes=CAP)
        self.index = WorkspaceIndex(source, self.parser, root, cache, lock_timeout_s=lock_timeout_s)

    def refresh(self) -> str:
        self.parser.asked.clear()
        self.index.refresh()
        with closing(self.index.view()) as view:
            return view.id

    def remembered_is_stored(self) -> bool:
        with closing(self.index.view()) as shared, closing(IndexView(self.index.path)) as stored:
            return shared.files() == stored.files()

    def settle(self) -> str:
        """Refreshes until every file's state is old enough to be trusted."""
        snapshot = self.refresh()
        while self.parser.asked:
            snapshot = self.refresh()
        return snapshot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "root", {"a.py": '"""First."""\n', "b/c.py": "x = 1\n", "b/d.md": "# D\n"})


def test_a_refresh_parses_what_changed_and_nothing_else(root: Path, tmp_path: Path) -> None:
    watched = Watched(root, tmp_path / "cache")
    first = watched.settle()
    assert watched.refresh() == first
    assert watched.parser.asked == []
    (root / "b/c.py").write_text("x = 2\n")
    (root / "new.py").write_text("y = 1\n")
    (root / "a.py").unlink()
    second = watched.refresh()
    assert sorted(watched.parser.asked) == ["b/c.py", "new.py"]
    assert watched.remembered_is_stored()
    assert second != first
    (root / "b/c.py").write_text("x = 1\n")
    (root / "new.py").unlink()
    (root / "a.py").write_text('"""First."""\n')
    assert watched.refresh() == first


def test_an_edit_that_restores_size_and_time_is_seen(root: Path, tmp_path: Path) -> None:
    watched = Watched(root, tmp_path / "cache")
    first = watched.settle()
    before = (root / "b/c.py").stat()
    (root / "b/c.py").write_text("x = 9\n")
    os.utime(root / "b/c.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.refresh() != first


def test_a_changed_ignore_rule_takes_effect(root: Path, tmp_path: Path) -> None:
    (root / "b/.gitignore").write_text("*.tmp\n")
    watched = Watched(root, tmp_path / "cache")
    watched.settle()
    (root / "b/.gitignore").write_text("*.py \n")
    watched.refresh()
    with closing(watched.index.view()) as view:
        assert set(view.files()) == {"a.py", "b/.gitignore", "b/d.md"}


def test_a_snapshot_keeps_its_state_while_the_index_goes_on(root: Path, tmp_path: Path) -> None:
    workspaces = Workspaces({"w": root}, tmp_path / "cache")
    with workspaces.snapshot("w") as old:
        (root / "a.py").unlink()
        (root / "z.py").write_text("zebra = 1\n")
        workspaces.refresh("w")
        with workspaces.snapshot("w") as new:
            assert old.listing(10) == ["a.py", "b/c.py", "b/d.md"]
            assert new.listing(10) == ["b/c.py", "b/d.md", "z.py"]
            assert old.id != new.id
            assert [entry.file.path for entry in new.view.ranked("zebra", [Role.CODE])] == ["z.py"]
            assert old.view.ranked("zebra", [Role.CODE]) == []


def test_a_state_that_was_handed_out_is_there_for_who_names_it(root: Path, tmp_path: Path) -> None:
    workspaces = Workspaces({"w": root}, tmp_path / "cache")
    with workspaces.snapshot("w") as first:
        named = first.id
    (root / "a.py").unlink()
    workspaces.refresh("w")
    with workspaces.snapshot("w") as present:
        assert present.id != named
    kept = workspaces.kept_snapshot("w", named)
    assert kept is not None
    with kept:
        assert kept.listing(10) == ["a.py", "b/c.py", "b/d.md"]
    assert workspaces.kept_snapshot("w", "files:unheard-of") is None


def test_states_go_when_nobody_asked_for_them_lately_but_not_from_under_their_users(root: Path, tmp_path: Path) -> None:
    source, parser = FilesystemSource(root, max_file_bytes=CAP), FolderParser(root, max_file_bytes=CAP)
    index = WorkspaceIndex(source, parser, root, tmp_path / "cache", lock_timeout_s=5)
    clock = [0.0]
    states = KeptStates(index.path, lambda: clock[0])

    def state_at(seconds: float) -> State:
        clock[0] = seconds
        (root / "a.py").write_text(f"x = {seconds}\n")
        listing = index.refresh()
        return states.keep(index.view(), lambda: listing)

    idle = state_at(0)
    states.give_back(idle)
    used = state_at(1)
    state_at(KEPT_SECONDS + 0.5)
    assert states.take(idle.view.id) is None
    assert states.take(used.view.id) is used
    states.give_back(used)
    state_at(3 * KEPT_SECONDS)
    assert states.take(used.view.id) is None
    assert used.view.refusals() == {}
    states.give_back(used)
    with pytest.raises(sqlite3.ProgrammingError):
        used.view.refusals()


BUILD = """
import sys
from pathlib import Path
from tool_svc.index import refresh
from tool_svc.workspaces import Workspaces
refresh._CONTENTS_PER_COMMIT = 50
workspaces = Workspaces({"w": sys.argv[1]}, Path(sys.argv[2]))
workspaces.refresh("w")
print(workspaces.snapshot("w").id)
"""


def build(root: Path, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(root), str(cache)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write_tree(
        tmp_path / "large", {f"d{n % 9}/f{n}.py": f'"""File {n}."""\ndef f{n}(): ...\n' for n in range(2000)}
    )


def test_processes_that_build_at_once_end_with_one_index(large: Path, tmp_path: Path) -> None:
    builders = [build(large, tmp_path / "cache") for _ in range(3)]
    ids = {builder.communicate(timeout=60)[0].strip() for builder in builders}
    with snapshot_of(large, tmp_path / "fresh") as fresh:
        assert ids == {fresh.id}


def test_a_killed_build_leaves_an_index_that_the_next_one_finishes(large: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for wanted in (100, 900):
        builder = build(large, cache)
        while builder.poll() is None and contents(cache) < wanted:
            time.sleep(0.005)
        builder.send_signal(signal.SIGKILL)
        builder.communicate()
    with snapshot_of(large, cache) as snapshot, snapshot_of(large, tmp_path / "fresh") as fresh:
        assert snapshot.id == fresh.id
        assert [entry.file.path for entry in snapshot.view.ranked("f1234", [Role.CODE])] == ["d1/f1234.py"]


def contents(cache: Path) -> int:
    try:
        with closing(sqlite3.connect(next(cache.glob("*/index.sqlite")))) as connection:
            (count,) = connection.execute("SELECT count(*) FROM content").fetchone()
            return int(count)
    except (StopIteration, sqlite3.OperationalError):
        return 0


def test_a_tree_that_is_rewritten_meanwhile_is_right_in_the_end(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {f"d{n % 5}/f{n}.py": f"x = {n}\n" for n in range(200)})
    stop = threading.Event()

    def rewrite() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            path = root / f"d{turn % 5}/f{turn % 200}.py"
            path.write_text(f"y = {turn}\n")
            moved = root / f"m{turn % 3}"
            moved.mkdir(exist_ok=True)
            (moved / "g.py").write_text("z\n")
            (moved / "g.py").unlink()
            moved.rmdir()

    workspaces = Workspaces({"w": root}, tmp_path / "cache")
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(8):
            workspaces.refresh("w")
            with workspaces.snapshot("w") as snapshot:
                assert snapshot.files_total >= 200
    finally:
        stop.set()
        writer.join()
    workspaces.refresh("w")
    with workspaces.snapshot("w") as snapshot, snapshot_of(root, tmp_path / "fresh") as fresh:
        assert snapshot.id == fresh.id


@pytest.mark.parametrize("sound", [0, 4096])
def test_a_damaged_index_is_built_anew(root: Path, tmp_path: Path, sound: int) -> None:
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        expected = snapshot.id
    del snapshot
    index = index_of(tmp_path / "cache")
    content = index.read_bytes()
    index.write_bytes(content[:sound] + b"\xff" * (len(content) - sound))
    with snapshot_of(root, tmp_path / "cache") as snapshot:
        assert snapshot.id == expected
        assert [entry.file.path for entry in snapshot.view.ranked("first", [Role.CODE])] == ["a.py"]


def test_damage_that_a_question_comes_upon_is_repaired_by_the_next_refresh(root: Path, tmp_path: Path) -> None:
    workspaces = Workspaces({"w": root}, tmp_path / "cache")
    with workspaces.snapshot("w") as snapshot:
        expected = snapshot.id
    with closing(sqlite3.connect(index_of(tmp_path / "cache"))) as connection, connection:
        connection.execute("UPDATE words_data SET block = x'ffffffffffff' WHERE id > 10")
    (root / "new.py").write_text("")
    workspaces.refresh("w")
    with workspaces.snapshot("w") as snapshot, pytest.raises(sqlite3.DatabaseError):
        snapshot.view.ranked("first", [Role.CODE])
    assert workspaces.kept_snapshot("w", snapshot.id) is None
    (root / "new.py").unlink()
    workspaces.refresh("w")
    with workspaces.snapshot("w") as snapshot:
        assert snapshot.id == expected
        assert [entry.file.path for entry in snapshot.view.ranked("first", [Role.CODE])] == ["a.py"]
    assert workspaces.kept_snapshot("w", snapshot.id) is not None


def test_an_index_that_cannot_be_had_at_present_is_left_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(root, tmp_path / "cache")
    watched.settle()
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.05)
    before = watched.index.path.stat().st_ino
    with closing(sqlite3.connect(watched.index.path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            watched.refresh()
    assert watched.index.path.stat().st_ino == before
    (root / "a.py").unlink()
    watched.refresh()
    assert watched.remembered_is_stored()


def test_what_another_process_has_just_added_stays(root: Path, tmp_path: Path) -> None:
    other = Watched(root, tmp_path / "cache")
    other.settle()

    class OvertakenSource(FilesystemSource):
        """Another process adds a file and builds between the listing and what is done with it."""

        def listing(self) -> Listing:
            listed = super().listing()
            if not (root / "new.py").exists():
                (root / "new.py").write_text("new = 1\n")
                (root / "a.py").write_text("changed = 1\n")
                other.refresh()
            return listed

    source = OvertakenSource(root, max_file_bytes=CAP)
    parser = FolderParser(root, max_file_bytes=CAP)
    index = WorkspaceIndex(source, parser, root, tmp_path / "cache", lock_timeout_s=5)
    (root / "b/c.py").write_text("x = 3\n")
    index.refresh()
    with closing(index.view()) as view:
        assert set(view.files()) == {"a.py", "b/c.py", "b/d.md", "new.py"}


def test_an_index_full_of_old_contents_is_built_anew_behind_the_present_state(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(root, tmp_path / "cache")
    watched.settle()
    monkeypatch.setattr(refresh, "_DEAD_CONTENTS_FACTOR", 1)
    monkeypatch.setattr(refresh, "_DEAD_CONTENTS_FREE", 0)
    (root / "a.py").write_text("y = 1\n")
    watched.refresh()
    (root / "a.py").unlink()
    seen = []

    class LookingParser(RecordingParser):
        def parse(self, paths: Sequence[str]) -> Iterator[list[ParsedFile]]:
            with closing(IndexView(watched.index.path)) as view:
                seen.append(set(view.files()))
            return super().parse(paths)

    watched.parser = watched.index._parser = LookingParser(root)
    watched.refresh()
    assert sorted(watched.parser.asked) == ["b/c.py", "b/d.md"]
    assert seen == [{"a.py", "b/c.py", "b/d.md"}]
    assert watched.remembered_is_stored()
    with closing(watched.index.view()) as view:
        assert set(view.files()) == {"b/c.py", "b/d.md"}


def index_of(cache: Path) -> Path:
    (index,) = cache.glob("*/index.sqlite")
    return index


def test_waiting_for_another_builder_has_an_end(root: Path, tmp_path: Path) -> None:
    first = Watched(root, tmp_path / "cache")
    first.settle()
    (root / "a.py").write_text("changed\n")
    with first.index._builders_lock(), pytest.raises(ServiceError) as caught:
        Watched(root, tmp_path / "cache", lock_timeout_s=0.1).refresh()
    assert caught.value.reason is ErrorReason.OVERLOADED
    assert caught.value.retry_after is not None


def test_an_unknown_workspace_is_named_with_those_there_are(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="there are w") as caught:
        Workspaces({"w": root}, tmp_path / "cache").snapshot("x")
    assert caught.value.reason is ErrorReason.WORKSPACE_NOT_FOUND
