"""Vectors of texts, for a ranking by meaning: made when they are first asked for, and kept beside the index."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

Vector = Sequence[float]
Embed = Callable[[Sequence[str]], Sequence[Vector]]
"""Turns each text into a vector; texts that mean alike get vectors that point alike. Blocking."""

_BUSY_TIMEOUT_S = 10.0
_SCHEMA = "CREATE TABLE IF NOT EXISTS vector (hash TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"


class Meanings:
    """Vectors by `embed`, kept in the SQLite file `path` by the hash of their text and `name`, which stands for the model."""

    def __init__(self, path: Path, name: str, embed: Embed) -> None:
        self._path = path
        self._name = name
        self._embed = embed

    def similarities(self, question: str, texts: Sequence[str]) -> list[float]:
        """How near each of `texts` is to `question` in meaning, from 0 to 1 (the cosine, where it is more than 0)."""
        hashes = [
            hashlib.sha256(f"{self._name}\0{text}".encode("utf-8", "surrogatepass")).hexdigest() for text in texts
        ]
        with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S)) as connection:
            with connection:
                connection.execute(_SCHEMA)
            query = "SELECT hash, value FROM vector WHERE hash IN (SELECT value FROM json_each(?))"
            vectors = {hash_: array("f", value) for hash_, value in connection.execute(query, [json.dumps(hashes)])}
            new = {hash_: text for hash_, text in zip(hashes, texts, strict=True) if hash_ not in vectors}
            asked, *made = (array("f", vector) for vector in self._embed([question, *new.values()]))
            vectors |= zip(new, made, strict=True)
            with connection:
                rows = ((hash_, vectors[hash_].tobytes()) for hash_ in new)
                connection.executemany("INSERT OR IGNORE INTO vector VALUES (?, ?)", rows)
        return [max(0.0, _cosine(asked, vectors[hash_])) for hash_ in hashes]


def _cosine(one: Vector, other: Vector) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0
