"""Reading one state of an index: everything asked of a view answers for the same moment."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tool_svc.index import database
from tool_svc.index.languages import Role
from tool_svc.index.parse import FileFacts

# More matches of one search than these are not looked through for accepted ones.
MOST_MATCHES = 20_000
_CHANGED_PATHS = "SELECT change_id, path FROM change_file WHERE change_id IN (SELECT value FROM json_each(?))"

Accepts = Callable[[str], bool]
"""Whether the file at a path counts."""


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file that may be read.

    `content_id` is its content's number in the index; it stays the same while the content does.
    """

    path: str
    size: int
    modified_ns: int
    content_id: int
    content_hash: str
    role: Role
    compliance: str
    changes: int


@dataclass(frozen=True, slots=True)
class Change:
    """A commit: when (seconds since 1970), its message (cut) and the files it changed."""

    hash: str
    time: int
    message: str
    paths: tuple[str, ...]


class IndexView:
    """One state of the index at `path`, held until `close`. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with database.condemning(path):
            self._connection = database.connect(path)
            self._connection.execute("BEGIN")
            meta = database.read_meta(self._connection)
        self.id = database.snapshot_id(meta)
        self.commit = meta.get(database.COMMIT, "")
        self.generation = meta.get(database.GENERATION, "")
        self._files: Mapping[str, IndexedFile] | None = None

    def close(self) -> None:
        """Lets go of the state."""
        with self._lock:
            self._connection.close()

    def files(self) -> Mapping[str, IndexedFile]:
        """All files that may be read, by path, in no order."""
        if self._files is None:
            with self._lock, database.condemning(self._path):
                self._files = indexed_files(self._connection)
        return self._files

    def share_files(self, files: Mapping[str, IndexedFile]) -> None:
        """Takes what another view of the same generation has read."""
        self._files = files

    def refusals(self) -> dict[str, str]:
        """Codes of files whose content is refused, by path."""
        return dict(self._all("SELECT path, refusal FROM file WHERE refusal IS NOT NULL"))

    def facts(self, files: Iterable[IndexedFile]) -> dict[str, FileFacts]:
        """What is known of `files`, by path."""
        wanted = list(files)
        found = dict(
            self._all(
                "SELECT id, facts FROM content WHERE id IN (SELECT value FROM json_each(?))",
                json.dumps([file.content_id for file in wanted]),
            )
        )
        return {file.path: FileFacts.from_json(found[file.content_id]) for file in wanted}

    def search_contents(
        self, expression: str, weights: Sequence[float], accepts: Accepts, limit: int
    ) -> list[tuple[str, float]]:
        """(path, BM25 score) of the accepted files with the best contents, `limit` contents at most, best first. Weights are those
        of the fields."""
        query = f"""
            SELECT rowid, -bm25(words, {_numbers(weights)}) FROM words
            WHERE words MATCH ? AND EXISTS (SELECT 1 FROM file WHERE content_id = words.rowid) ORDER BY 2 DESC LIMIT ?
        """
        paths = "SELECT content_id, path FROM file WHERE content_id IN (SELECT value FROM json_each(?))"
        found = self._accepted(self._all(query, expression, MOST_MATCHES), paths, accepts, limit)
        return [(path, score) for _, score, accepted in found for path in accepted]

    def search_names(
        self, expression: str, weights: Sequence[float], accepts: Accepts, limit: int
    ) -> list[tuple[str, float]]:
        """(path, BM25 score) of the accepted files with the best matching names, `limit` at most, best first."""
        query = (
            f"SELECT rowid, -bm25(names, {_numbers(weights)}) FROM names WHERE names MATCH ? ORDER BY 2 DESC LIMIT ?"
        )
        paths = "SELECT id, path FROM file WHERE id IN (SELECT value FROM json_each(?))"
        found = self._accepted(self._all(query, expression, MOST_MATCHES), paths, accepts, limit)
        return [(path, score) for _, score, accepted in found for path in accepted]

    def search_changes(self, expression: str, accepts: Accepts, limit: int) -> list[tuple[int, float]]:
        """(change id, BM25 score) of the commits with the best matching messages that changed accepted files, `limit` at most."""
        query = "SELECT rowid, -bm25(messages) FROM messages WHERE messages MATCH ? ORDER BY 2 DESC LIMIT ?"
        found = self._accepted(self._all(query, expression, MOST_MATCHES), _CHANGED_PATHS, accepts, limit)
        return [(change_id, score) for change_id, score, _ in found]

    def document_frequencies(self, table: str, words: Iterable[str]) -> dict[str, int]:
        """How many entries of a full-text table (`words`, `names`, `messages`) each of `words` occurs in."""
        counts = {}
        for word in words:
            query = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {table} MATCH ? LIMIT 100000)"
            counts[word] = int(self._all(query, f'"{word}"')[0][0])
        return counts

    def changed_paths(self, change_ids: Iterable[int]) -> dict[int, list[str]]:
        """The files that each of these commits changed."""
        return self._paths(_CHANGED_PATHS, change_ids)

    def recent_changes(self, limit: int) -> list[Change]:
        """The last commits, newest first."""
        rows = self._all("SELECT id, hash, time, message FROM change ORDER BY id DESC LIMIT ?", limit)
        paths = self.changed_paths(row[0] for row in rows)
        return [Change(row[1], row[2], row[3], tuple(paths.get(row[0], ()))) for row in rows]

    def change_ages(self, commits: int, limit: int) -> list[tuple[str, int]]:
        """(path, number of commits since, counted from the newest) of the last `limit` changes of files in the last `commits`."""
        query = """
            SELECT path, (SELECT max(id) FROM change) - change_id FROM change_file
            WHERE change_id > (SELECT max(id) FROM change) - ? ORDER BY change_id DESC LIMIT ?
        """
        return self._all(query, commits, limit)

    def _accepted(
        self, matches: Sequence[tuple[int, float]], paths_query: str, accepts: Accepts, limit: int
    ) -> list[tuple[int, float, list[str]]]:
        """(id, score, accepted paths) of the first `limit` matches; when less than half of them have any, of `limit` among all."""
        found: list[tuple[int, float, list[str]]] = []
        for portion in (matches[:limit], matches[limit:]):
            paths = self._paths(paths_query, (id_ for id_, _ in portion))
            for id_, score in portion:
                if accepted := [path for path in paths.get(id_, ()) if accepts(path)]:
                    found.append((id_, score, accepted))
            if len(found) >= limit // 2:
                break
        return found[:limit]

    def _paths(self, query: str, ids: Iterable[int]) -> dict[int, list[str]]:
        paths: dict[int, list[str]] = {}
        for id_, path in self._all(query, json.dumps(list(ids))):
            paths.setdefault(id_, []).append(path)
        return paths

    def _all(self, query: str, *values: object) -> list[Any]:
        with self._lock, database.condemning(self._path):
            return self._connection.execute(query, values).fetchall()


def indexed_files(connection: sqlite3.Connection, paths: Iterable[str] | None = None) -> dict[str, IndexedFile]:
    """The files of the present state that may be read, by path; only those at `paths` when given."""
    query = """
        SELECT path, size, modified_ns, content_id, hash, role, compliance, changes
        FROM file JOIN content ON content.id = content_id
    """
    if paths is None:
        rows = connection.execute(query)
    else:
        rows = connection.execute(f"{query} WHERE path IN (SELECT value FROM json_each(?))", [json.dumps(list(paths))])
    return {row[0]: IndexedFile(row[0], row[1], row[2], row[3], row[4], Role(row[5]), row[6], row[7]) for row in rows}


def match_any(words: Iterable[str]) -> str:
    """The full-text expression that any of `words` satisfies."""
    return " OR ".join(f'"{word}"' for word in words)


def _numbers(weights: Sequence[float]) -> str:
    return ", ".join(str(float(weight)) for weight in weights)
