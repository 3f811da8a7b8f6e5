"""Set-wise SQL for hot paths: statements of fixed text whatever the size of a batch, so that they are parsed and prepared once.

SQLAlchemy builds parameters row by row in Python, which for batches of small rows costs more than the database does, and its way
through a statement costs as much as the statement. Here a whole batch is one statement, run on the driver's own cursor within the
transaction of a SQLAlchemy connection: arrays on PostgreSQL, `executemany` on SQLite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Boolean, Connection, LargeBinary, Table, Text

_NAMED_PARAMETER = re.compile(r"(?<!:):(\w+)")


class BulkSql:
    """Writes statements for one kind of database."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite

    def driver_sql(self, statement: str) -> str:
        """A statement for `read`, from one with parameters written `:name`."""
        return statement if self._is_sqlite else _NAMED_PARAMETER.sub(r"%(\1)s", statement)

    def read(
        self, connection: Connection, statement: str, parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows that a statement made by `driver_sql` returns."""
        cursor = connection.connection.cursor()
        cursor.execute(statement, parameters or {})
        return list(cursor.fetchall())

    def read_all(
        self, connection: Connection, queries: Sequence[tuple[str, Mapping[str, Any]] | None]
    ) -> list[list[tuple[Any, ...]]]:
        """What each of the queries returns; nothing for None. In a pipeline they are answered together."""
        cursors = []
        for query in queries:
            cursors.append(cursor := connection.connection.cursor() if query else None)
            if query and cursor:
                cursor.execute(*query)
        return [list(cursor.fetchall()) if cursor else [] for cursor in cursors]

    def run(self, connection: Connection, statement: str, parameters: Mapping[str, Any]) -> None:
        """Runs a statement made by `driver_sql` that returns nothing."""
        connection.connection.cursor().execute(statement, parameters)

    @contextmanager
    def together(self, connection: Connection) -> Iterator[None]:
        """Statements of the block that return nothing travel to PostgreSQL without waiting for each other."""
        if self._is_sqlite:
            yield
            return
        driver_connection: Any = connection.connection.driver_connection
        with driver_connection.pipeline():
            yield

    def among(self, column: str, name: str) -> str:
        """The condition that a text column is one of the list given as the parameter `name`."""
        if self._is_sqlite:
            return f"{column} IN (SELECT value FROM json_each(:{name}))"
        return f"{column} = ANY(CAST(:{name} AS text[]))"

    def rows_of(self, name: str) -> str:
        """The list given as the parameter `name`, as a table `k` with the column `value`."""
        return f"json_each(:{name}) AS k" if self._is_sqlite else f"unnest(CAST(:{name} AS text[])) AS k(value)"

    def list_of(self, values: Iterable[str]) -> Any:
        """A list as a parameter."""
        return json.dumps(list(values)) if self._is_sqlite else list(values)

    def entries_of(self, name: str) -> str:
        """The map of numbers given as the parameter `name`, as a table of keys and values."""
        if self._is_sqlite:
            return f"(SELECT key, value FROM json_each(:{name}))"
        return f"(SELECT key, CAST(value AS bigint) FROM json_each_text(CAST(:{name} AS json))) AS k"

    def map_of(self, entries: Mapping[str, int]) -> str:
        """A map as a parameter."""
        return json.dumps(entries)

    def for_update(self) -> str:
        """Locks the rows of a SELECT; SQLite's one writer has the whole file."""
        return "" if self._is_sqlite else " FOR UPDATE"

    def insert(self, table: Table, columns: Sequence[str]) -> str:
        """A statement for `write`, whose rows have the columns in this order."""
        target = f"INSERT INTO {table.name} ({', '.join(columns)})"
        if self._is_sqlite:
            return f"{target} VALUES ({', '.join('?' * len(columns))})"
        return f"{target} SELECT * FROM {_unnested(table, columns)}"

    def update(self, table: Table, key: str, columns: Sequence[str]) -> str:
        """A statement for `write`, whose rows have the key first and then the columns to set."""
        if self._is_sqlite:
            # Numbered parameters: the key comes first in the row and last in the statement.
            assignments = ", ".join(f"{column} = ?{number}" for number, column in enumerate(columns, 2))
            return f"UPDATE {table.name} SET {assignments} WHERE {key} = ?1"
        assignments = ", ".join(f"{column} = v.{column}" for column in columns)
        source = f"{_unnested(table, (key, *columns))} AS v({', '.join((key, *columns))})"
        return f"UPDATE {table.name} SET {assignments} FROM {source} WHERE {table.name}.{key} = v.{key}"

    def write(self, connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Runs an insert or update for all rows at once; nothing for none."""
        if not rows:
            return
        cursor = connection.connection.cursor()
        if self._is_sqlite:
            cursor.executemany(statement, rows)
        else:
            cursor.execute(statement, tuple(map(list, zip(*rows, strict=True))))


def _unnested(table: Table, columns: Sequence[str]) -> str:
    return f"unnest({', '.join(f'%b::{_array_type(table, column)}' for column in columns)})"


def _array_type(table: Table, column: str) -> str:
    type_ = table.c[column].type
    if isinstance(type_, Text):
        return "text[]"
    if isinstance(type_, LargeBinary):
        return "bytea[]"
    return "boolean[]" if isinstance(type_, Boolean) else f"{type_!s}[]"
