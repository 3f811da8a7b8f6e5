"""The SQL of the hot paths: set-based, written once, with the few words that differ between SQLite and PostgreSQL filled in.

Statements have fixed texts whatever the size of a batch, so that they are parsed and prepared once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Boolean, Connection, LargeBinary, Table, text
from sqlalchemy.types import Text as TextType

from jobs_svc import rows, tables
from jobs_svc.job import Phase

_CONTENT = frozenset({"payload", "result", "checkpoint"})
_WRITERS_TURN = 7236479  # key of the advisory lock that lets one replica write at a time


class Statements:
    """The statements for one kind of database."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite
        live = ", ".join(rows.LIVE_FIELDS)
        jobs = ", ".join(rows.JOB_COLUMNS)
        self.writers_turn = text(
            # A replica that freezes while it holds the turn loses its transaction, and the others go on.
            "SELECT set_config('idle_in_transaction_session_timeout', '5000', true),"
            f" set_config('lock_timeout', '10000', true), pg_advisory_xact_lock({_WRITERS_TURN})"
        )
        self.live = text(f"SELECT {live} FROM live WHERE {self._among('id', 'ids')}")
        self.live_with_children = text(
            f"SELECT {live} FROM live WHERE {self._among('id', 'ids')}"
            f" UNION SELECT {live} FROM live WHERE parent_id <> '' AND {self._among('parent_id', 'parents')}"
        )
        self.live_due = text(f"SELECT {live} FROM live WHERE wake_time <= :now ORDER BY wake_time LIMIT :limit")
        self.next_wake = text("SELECT min(wake_time) FROM live")
        self.jobs = text(f"SELECT {jobs} FROM jobs WHERE {self._among('id', 'ids')}")
        nothing = "x''" if is_sqlite else "''::bytea"
        hollow = ", ".join(f"{nothing} AS {name}" if name in _CONTENT else name for name in rows.JOB_COLUMNS)
        self.jobs_without_content = text(f"SELECT {hollow} FROM jobs WHERE {self._among('id', 'ids')}")
        self.last_sequences = text(f"SELECT id, last_sequence FROM live WHERE {self._among('id', 'ids')}")
        errors = ", ".join(rows.ATTEMPT_ERROR_COLUMNS)
        self.attempt_errors = text(
            f"SELECT {errors} FROM attempt_errors WHERE {self._among('job_id', 'ids')} ORDER BY job_id, time"
        )
        self.unfinished_roots = text(
            f"SELECT l.lane, count(*) FROM {self._rows_of('kinds')} JOIN live l ON {_in_kind('l')}"
            f" WHERE l.parent_id = '' AND l.phase IN ({_phases(*Phase)}) GROUP BY l.lane"
        )
        # A loose index scan: one probe of the index per lane, however many jobs wait in it.
        ready = f"l.phase = {Phase.READY:d}"
        lanes = (
            "WITH RECURSIVE lanes(kind, lane) AS ("
            f"SELECT k.value, (SELECT min(l.lane) FROM live l WHERE {ready} AND {_in_kind('l')})"
            f" FROM {self._rows_of('kinds')} "
            "UNION ALL "
            f"SELECT kind, (SELECT min(l.lane) FROM live l WHERE {ready} AND l.lane > lanes.lane"
            " AND l.lane < lanes.kind || '0') FROM lanes WHERE lanes.lane IS NOT NULL)"
        )
        self.lanes = text(f"{lanes} SELECT lane FROM lanes WHERE lane IS NOT NULL")
        first_due = (
            f"SELECT l.due_time FROM live l WHERE {ready} AND l.lane = lanes.lane ORDER BY l.create_time LIMIT 1"
        )
        self.oldest_due = text(f"{lanes} SELECT lane, ({first_due}) FROM lanes WHERE lane IS NOT NULL")
        self.running = text(f"SELECT lane, count(*) FROM live WHERE phase = {Phase.RUNNING:d} GROUP BY lane")
        # The first :wanted of each lane; the inner query finds the age of the first one that is not wanted.
        self.waiting = text(
            f"SELECT l.lane, l.create_time, l.id FROM {self._rows_of('lanes')} JOIN live l"
            f" ON l.phase = {Phase.READY:d} AND l.lane = k.value AND l.create_time < coalesce("
            f"(SELECT create_time FROM live i WHERE i.phase = {Phase.READY:d} AND i.lane = k.value"
            " ORDER BY create_time LIMIT 1 OFFSET :wanted), 9223372036854775807)"
            " WHERE l.deadline > :now ORDER BY l.lane, l.create_time"
        )
        self.counts = text("SELECT phase, lane, count(*) FROM live GROUP BY phase, lane")
        self.insert_jobs = self._insert(tables.jobs, rows.JOB_COLUMNS)
        self.insert_live = self._insert(tables.live, rows.LIVE_COLUMNS)
        self.update_live = self._update(tables.live, rows.STANDING_COLUMNS)
        self.delete_live = text(f"DELETE FROM live WHERE {self._among('id', 'ids')}")
        self.update_ended = self._update(tables.jobs, rows.ENDING_COLUMNS)
        self.update_checkpoints = self._update(tables.jobs, ("checkpoint",))
        self.insert_events = self._insert(tables.events, rows.EVENT_COLUMNS)
        self.insert_stops = self._insert(tables.stops, rows.STOP_COLUMNS)
        self.insert_attempt_errors = self._insert(tables.attempt_errors, rows.ATTEMPT_ERROR_COLUMNS)
        self.insert_compactions = self._insert(tables.compactions, ("root_id",))

    def among(self, values: Iterable[str]) -> Any:
        """A list as the parameter of a statement."""
        return json.dumps(list(values)) if self._is_sqlite else list(values)

    def write(self, connection: Connection, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        """Runs one of the inserts and updates above for all rows at once."""
        if not values:
            return
        if self._is_sqlite:
            connection.exec_driver_sql(statement, list(values))
        else:
            connection.exec_driver_sql(statement, tuple(map(list, zip(*values, strict=True))))

    def _among(self, column: str, name: str) -> str:
        if self._is_sqlite:
            return f"{column} IN (SELECT value FROM json_each(:{name}))"
        return f"{column} = ANY(CAST(:{name} AS text[]))"

    def _rows_of(self, name: str) -> str:
        return f"json_each(:{name}) AS k" if self._is_sqlite else f"unnest(CAST(:{name} AS text[])) AS k(value)"

    def _insert(self, table: Table, columns: Sequence[str]) -> str:
        target = f"INSERT INTO {table.name} ({', '.join(columns)})"
        if self._is_sqlite:
            return f"{target} VALUES ({', '.join('?' * len(columns))})"
        return f"{target} SELECT * FROM {_unnested(table, columns)}"

    def _update(self, table: Table, columns: Sequence[str]) -> str:
        """The rows to write have the id first, then the columns."""
        if self._is_sqlite:
            # Numbered parameters: the id comes first in the row and last in the statement.
            assignments = ", ".join(f"{column} = ?{number}" for number, column in enumerate(columns, 2))
            return f"UPDATE {table.name} SET {assignments} WHERE id = ?1"
        assignments = ", ".join(f"{column} = v.{column}" for column in columns)
        names = ", ".join(("id", *columns))
        source = f"{_unnested(table, ('id', *columns))} AS v({names})"
        return f"UPDATE {table.name} SET {assignments} FROM {source} WHERE {table.name}.id = v.id"


def _unnested(table: Table, columns: Sequence[str]) -> str:
    return f"unnest({', '.join(f'%s::{_array_type(table, column)}' for column in columns)})"


def _array_type(table: Table, column: str) -> str:
    type_ = table.c[column].type
    if isinstance(type_, TextType):
        return "text[]"
    if isinstance(type_, LargeBinary):
        return "bytea[]"
    return "boolean[]" if isinstance(type_, Boolean) else f"{type_!s}[]"


def _in_kind(alias: str) -> str:
    # Lane names begin with the kind and a slash; a zero is the next character after it.
    return f"{alias}.lane >= k.value || '/' AND {alias}.lane < k.value || '0'"


def _phases(*phases: Phase) -> str:
    return ", ".join(str(int(phase)) for phase in phases)
