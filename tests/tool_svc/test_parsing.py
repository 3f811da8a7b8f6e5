"""Parsing many files in other processes, some of which may die or hang."""

from __future__ import annotations

import multiprocessing
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from tests.tool_svc import unruly_parsing
from tests.tool_svc.trees import write_tree
from tool_svc.index import parsers
from tool_svc.index.parsers import FolderParser
from tool_svc.index.refresh import WorkspaceIndex
from tool_svc.workspace.filesystem import FilesystemSource

CAP = 1024 * 1024


def test_several_processes_parse_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "root", {f"d{n % 7}/f{n}.py": f'"""File {n % 50}."""\n' for n in range(450)})
    monkeypatch.setattr(parsers, "PARALLEL_FROM", 10)
    ids = []
    for processes in (1, 2):
        parser = FolderParser(root, max_file_bytes=CAP, processes=processes)
        source = FilesystemSource(root, max_file_bytes=CAP)
        index = WorkspaceIndex(source, parser, root, tmp_path / f"cache{processes}", lock_timeout_s=5)
        index.refresh()
        with closing(index.view()) as view:
            ids.append(view.id)
            assert len(view.files()) == 450
            assert len(view.search_contents('"41"', (1, 1, 1, 1), bool, 10)) == 9
    assert ids[0] == ids[1]


def test_a_file_that_ends_or_stops_who_parses_it_is_unreadable_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"f{number}.py": f"x = {number}\n" for number in range(20)}
    root = write_tree(tmp_path / "root", files | {"dies.py": "", "hangs.py": ""})
    for name, value in {"PARALLEL_FROM": 10, "BATCH": 8, "ANSWER_SECONDS": 2.0, "_serve": unruly_parsing.serve}.items():
        monkeypatch.setattr(parsers, name, value)
    parser = FolderParser(root, max_file_bytes=CAP, processes=2)
    parsed = [file for batch in parser.parse(sorted([*files, "dies.py", "hangs.py"])) for file in batch]
    refused = {file.path for file in parsed if file.file is not None and file.file.refusal == "UNREADABLE"}
    assert refused == {"dies.py", "hangs.py"}
    assert {file.path for file in parsed if file.file is not None and file.file.content_hash} == set(files)
    assert len(parsed) == 22
    assert multiprocessing.active_children() == []


def test_a_root_that_vanishes_while_it_is_parsed_holds_no_files(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a.py": ""})
    parser = FolderParser(root, max_file_bytes=CAP)
    shutil.rmtree(root)
    ((parsed,),) = parser.parse(["a.py"])
    assert parsed.file is None
