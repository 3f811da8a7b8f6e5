"""The index of one workspace on disk: an SQLite file that every worker of the machine shares.

Content is kept by its hash and never changed or removed while the file lives; `file` says which content stands where at
present. A reader holds a read transaction, so it sees one state while a refresh writes the next (WAL). Whoever is
killed in between leaves the last committed state. The full-text tables keep no copy of the text, only the word lists
that BM25 needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tool_svc.index.parse import PARSER_VERSION, SearchText
from tool_svc.index.words import name_words

SCHEMA_VERSION = 3

# Keys of `meta`. A generation is a random name of one committed state.
GENERATION, COMMIT, TREE, HISTORY = "generation", "commit", "tree", "history"

_BUSY_TIMEOUT_S = 30.0
# More of it means fewer merges of word lists while an index is built.
_WORDS_IN_MEMORY_BYTES = 32 * 1024 * 1024
_TOKENS = "porter unicode61 remove_diacritics 2"

_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE content (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL,        -- git's blob id of the bytes
    flavour TEXT NOT NULL,     -- how they were read: parse.flavour_of
    role TEXT NOT NULL,
    compliance TEXT NOT NULL,
    changes INTEGER NOT NULL,  -- number of change entries in facts
    facts TEXT NOT NULL,       -- parse.FileFacts as JSON
    UNIQUE (hash, flavour)
);
CREATE TABLE file (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    signature TEXT NOT NULL,
    content_id INTEGER REFERENCES content (id),  -- NULL for a file whose content is refused
    refusal TEXT                                 -- code of the refusal
);
CREATE INDEX file_content ON file (content_id);
CREATE TABLE change (id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, time INTEGER NOT NULL, message TEXT NOT NULL);
CREATE TABLE change_file (path TEXT NOT NULL, change_id INTEGER NOT NULL, PRIMARY KEY (path, change_id)) WITHOUT ROWID;
CREATE INDEX change_file_change ON change_file (change_id);
CREATE VIRTUAL TABLE words USING fts5 (intent, symbols, headings, body, content='', tokenize='{_TOKENS}');
CREATE VIRTUAL TABLE names USING fts5 (name, directories, content='', tokenize='{_TOKENS}');
CREATE VIRTUAL TABLE messages USING fts5 (message, content='', tokenize='{_TOKENS}');
INSERT INTO words (words, rank) VALUES ('hashsize', {_WORDS_IN_MEMORY_BYTES});
"""


@dataclass(frozen=True)  # no slots: with them unpickling takes many times as long
class FileRow:
    """A file of the present state: where, how large, and either its content or why it has none."""

    path: str
    size: int
    modified_ns: int
    signature: str
    content_hash: str | None
    flavour: str
    refusal: str | None


@dataclass(frozen=True)  # no slots: with them unpickling takes many times as long
class ContentRow:
    """What is kept of one content."""

    hash: str
    flavour: str
    role: str
    compliance: str
    changes: int
    facts: str
    search: SearchText


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One commit. `time` is in seconds since 1970; `message` is cut; `paths` are the files it changed."""

    hash: str
    time: int
    message: str
    paths: tuple[str, ...]


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    # A lost commit after a power failure is only parsed again; corruption is excluded by WAL.
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def prepare(path: Path) -> None:
    """Makes the file usable: creates it, and starts anew when it was written by another version or is damaged.

    The caller holds the builders' lock. Raises sqlite3.Error when the file cannot be had at present; it stays as it is then.
    """
    if is_current(path):
        return
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    connection = connect(path)
    try:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
    finally:
        connection.close()
    _damage_mark(path).unlink(missing_ok=True)


_VERSION = SCHEMA_VERSION * 1000 + PARSER_VERSION


def is_current(path: Path) -> bool:
    """Whether the file exists, was written by this version and was not found damaged. Raises sqlite3.Error."""
    if not path.exists() or is_condemned(path):
        return False
    try:
        return _version(path) == _VERSION
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error says that the file is broken, not only that it cannot be had at present."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def condemn(path: Path) -> None:
    """Notes for all processes that the file is damaged: the next one to prepare it starts anew."""
    _damage_mark(path).touch()


def is_condemned(path: Path) -> bool:
    """Whether the file was found damaged and has not been made anew since."""
    return _damage_mark(path).exists()


@contextmanager
def condemning(path: Path) -> Iterator[None]:
    """Condemns the file when what is read within finds it damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            condemn(path)
        raise


def _damage_mark(path: Path) -> Path:
    return path.with_name(f"{path.name}-damaged")


def _version(path: Path) -> int:
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return int(version)
    finally:
        connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All writes within, or none; within another transaction they are part of that one."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # some errors have ended it
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def read_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """What is noted about the state as a whole."""
    return dict(connection.execute("SELECT key, value FROM meta"))


def write_meta(connection: sqlite3.Connection, values: dict[str, str]) -> None:
    """Notes `values`; other keys stay."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def read_signatures(connection: sqlite3.Connection) -> dict[str, str]:
    """Signature of every file of the present state, by path."""
    return dict(connection.execute("SELECT path, signature FROM file"))


def add_contents(connection: sqlite3.Connection, rows: Sequence[ContentRow]) -> None:
    """Keeps contents that are not there yet, in a transaction of its own."""
    insert = """
        INSERT INTO content (hash, flavour, role, compliance, changes, facts) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT DO NOTHING
    """
    index = "INSERT INTO words (rowid, intent, symbols, headings, body) VALUES (?, ?, ?, ?, ?)"
    if not rows:
        return
    with transaction(connection):
        for row in rows:
            values = (row.hash, row.flavour, row.role, row.compliance, row.changes, row.facts)
            done = connection.execute(insert, values)
            if done.rowcount:
                search = row.search
                connection.execute(index, (done.lastrowid, search.intent, search.symbols, search.headings, search.text))


def put_files(connection: sqlite3.Connection, rows: Iterable[FileRow]) -> None:
    """Adds files to the present state, or replaces what it says of them. Their contents are there."""
    insert = """
        INSERT INTO file (path, size, modified_ns, signature, content_id, refusal)
        VALUES (?, ?, ?, ?, (SELECT id FROM content WHERE hash = ? AND flavour = ?), ?)
        ON CONFLICT (path) DO UPDATE SET size = excluded.size, modified_ns = excluded.modified_ns, signature =
        excluded.signature, content_id = excluded.content_id, refusal = excluded.refusal
    """
    for row in rows:
        is_known = connection.execute("SELECT 1 FROM file WHERE path = ?", (row.path,)).fetchone() is not None
        values = (row.path, row.size, row.modified_ns, row.signature, row.content_hash, row.flavour, row.refusal)
        done = connection.execute(insert, values)
        if not is_known:
            name = "INSERT INTO names (rowid, name, directories) VALUES (?, ?, ?)"
            connection.execute(name, (done.lastrowid, *path_words(row.path)))


def remove_files(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Takes files out of the present state."""
    for path in paths:
        found = connection.execute("SELECT id FROM file WHERE path = ?", (path,)).fetchone()
        if found is not None:
            # A full-text table without a copy of its text must be told what to forget.
            forget = "INSERT INTO names (names, rowid, name, directories) VALUES ('delete', ?, ?, ?)"
            connection.execute(forget, (found[0], *path_words(path)))
            connection.execute("DELETE FROM file WHERE id = ?", found)


def forget_everything(connection: sqlite3.Connection) -> None:
    """Empties the index."""
    for table in ("words", "names", "messages"):
        connection.execute(f"INSERT INTO {table} ({table}) VALUES ('delete-all')")
    for table in ("meta", "file", "content", "change_file", "change"):
        connection.execute(f"DELETE FROM {table}")


def add_changes(connection: sqlite3.Connection, rows: Iterable[ChangeRow]) -> None:
    """Appends commits, the oldest first."""
    for row in rows:
        done = connection.execute(
            "INSERT INTO change (hash, time, message) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (row.hash, row.time, row.message),
        )
        if done.rowcount:
            connection.execute("INSERT INTO messages (rowid, message) VALUES (?, ?)", (done.lastrowid, row.message))
            connection.executemany(
                "INSERT OR IGNORE INTO change_file (path, change_id) VALUES (?, ?)",
                ((path, done.lastrowid) for path in row.paths),
            )


def forget_changes(connection: sqlite3.Connection) -> None:
    """Drops the commits, as after a rewritten history."""
    connection.execute("INSERT INTO messages (messages) VALUES ('delete-all')")
    connection.execute("DELETE FROM change_file")
    connection.execute("DELETE FROM change")


def path_words(path: str) -> tuple[str, str]:
    """(words of the file's name, words of its directories)."""
    directories, _, name = path.rpartition("/")
    return name_words([name]), name_words(directories.split("/")) if directories else ""


def snapshot_id(meta: dict[str, str]) -> str:
    """Name of the state that `meta` was read with: the commit the files belong to, if any, and a hash over all of them."""
    commit, tree = meta.get(COMMIT, ""), meta.get(TREE, "")
    return f"git:{commit[:12]}+{tree[:16]}" if commit else f"files:{tree[:16]}"
