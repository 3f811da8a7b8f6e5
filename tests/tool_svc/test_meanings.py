"""Ranking by meaning, where a function that turns texts into vectors is named."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tool_svc.trees import write_tree
from tool_svc.index.languages import Role
from tool_svc.workspaces import Workspaces

DIMENSIONS = 512
embedded: list[str] = []


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of trigrams: texts that are spelt alike are near each other."""
    embedded.extend(texts)
    vectors = []
    for text in texts:
        vector = [0.0] * DIMENSIONS
        for start in range(len(text) - 2):
            vector[zlib.crc32(text[start : start + 3].lower().encode()) % DIMENSIONS] += 1
        vectors.append(vector)
    return vectors


@pytest.fixture
def root(tmp_path: Path) -> Path:
    embedded.clear()
    return write_tree(tmp_path / "root", {
        "a.py": '"""The service draws colourful pictures."""\n', "b.py": '"""The service authenticates its callers."""\n',
        "c.py": '"""Unknown."""\n',
    })  # fmt: skip


def ranked(root: Path, cache: Path, embeddings: str) -> list[str]:
    with Workspaces({"it": root}, cache, embeddings=embeddings).snapshot("it") as snapshot:
        return [entry.file.path for entry in snapshot.view.ranked("service authentikates", [Role.CODE])]


def test_what_is_near_in_meaning_comes_first_only_where_vectors_are_made(root: Path, tmp_path: Path) -> None:
    assert ranked(root, tmp_path / "cache", "") == ["a.py", "b.py"]
    assert ranked(root, tmp_path / "cache", f"{__name__}:embed") == ["b.py", "a.py"]


def test_each_text_becomes_a_vector_once(root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        ranked(root, tmp_path / "cache", f"{__name__}:embed")
    assert sorted(embedded) == [
        "The service authenticates its callers.\n", "The service draws colourful pictures.\n",
        "service authentikates", "service authentikates",
    ]  # fmt: skip
