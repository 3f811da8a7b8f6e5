"""The SQL of the hot paths, written once for both stores; the few words that differ come from `BulkSql`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs_svc import rows, tables
from jobs_svc.job import Phase
from svc_common.bulk import BulkSql

NEVER = 2**63 - 1
_WRITERS_TURN = 7236479  # key of the advisory lock that lets one replica write at a time
_WRITERS_SETTINGS = ", ".join(
    f"set_config('{name}', '{value}', true)"
    for name, value in (
        ("idle_in_transaction_session_timeout", "5000"),
        ("lock_timeout", "10000"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
    )
)

_LIVE = ", ".join(rows.LIVE_FIELDS)
_JOBS = ", ".join(rows.JOB_COLUMNS)
_CLAIMED = ", ".join((*(f"l.{name}" for name in rows.LIVE_FIELDS), *(f"j.{name}" for name in rows.CLAIMED_COLUMNS)))
# Lane names begin with the kind and a slash; a zero is the next character after it.
_IN_KIND = "l.lane >= k.value || '/' AND l.lane < k.value || '0'"


class Statements:
    """The statements for one kind of database, to be run by its `bulk`."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite
        bulk = self.bulk = BulkSql(is_sqlite=is_sqlite)
        sql, among = bulk.driver_sql, bulk.among
        # The first query of a transaction that writes; on SQLite its beginning is enough. A replica that freezes while it holds the
        # turn loses its transaction, and the others go on. Every statement goes by an index; statistics of tables that fill and
        # empty within seconds would talk the planner out of it.
        turn = f"SELECT {_WRITERS_SETTINGS}, pg_advisory_xact_lock({_WRITERS_TURN})"
        self.writers_turn: tuple[str, Mapping[str, Any]] | None = None if is_sqlite else (turn, {})

        self.live = sql(f"SELECT {_LIVE} FROM live WHERE {among('id', 'ids')}")
        self.live_with_children = sql(
            f"SELECT {_LIVE} FROM live WHERE {among('id', 'ids')}"
            f" UNION ALL SELECT {_LIVE} FROM live WHERE parent_id <> '' AND {among('parent_id', 'parents')}"
        )
        self.live_of_claims = sql(f"SELECT {_LIVE} FROM live WHERE claim_id <> '' AND {among('claim_id', 'ids')}")
        self.due = sql("SELECT id FROM live WHERE wake_time BETWEEN :since AND :now ORDER BY wake_time LIMIT :limit")
        self.next_wake = sql("SELECT min(wake_time) FROM live WHERE wake_time >= :since")
        self.last_sequences = sql(f"SELECT id, last_sequence FROM live WHERE {among('id', 'ids')}")
        self.counts = "SELECT phase, lane, count(*) FROM live GROUP BY phase, lane"
        self.unfinished_roots = sql(
            f"SELECT l.lane, count(*) FROM {bulk.rows_of('kinds')} JOIN live l ON {_IN_KIND}"
            f" WHERE l.parent_id = '' AND l.phase IN ({', '.join(f'{phase:d}' for phase in Phase)}) GROUP BY l.lane"
        )

        self.jobs = sql(f"SELECT {_JOBS} FROM jobs WHERE {among('id', 'ids')}")
        standing = ", ".join(
            (*(f"j.{name}" for name in rows.JOB_COLUMNS), *(f"l.{name}" for name in rows.SHOWN_STANDING))
        )
        self.job = sql(f"SELECT {standing} FROM jobs j LEFT JOIN live l ON l.id = j.id WHERE {among('j.id', 'ids')}")
        errors = ", ".join(rows.ATTEMPT_ERROR_COLUMNS)
        self.attempt_errors = sql(
            f"SELECT {errors} FROM attempt_errors WHERE {among('job_id', 'ids')} ORDER BY job_id, attempt"
        )

        ends = "a.sequence = (SELECT max(b.sequence) FROM audit b WHERE b.root_id = k.value)"
        of_root = f"{bulk.rows_of('ids')} JOIN audit a ON a.root_id = k.value"
        self.audit_ends = sql(f"SELECT a.root_id, a.sequence, a.hash FROM {of_root} AND {ends}")
        among_appends = among("a.append_id", "append_ids")
        self.audit_appends = sql(f"SELECT DISTINCT a.root_id, a.append_id FROM {of_root} AND {among_appends}")

        # A loose index scan: one probe of the index per lane, however many jobs wait in it.
        ready = f"l.phase = {Phase.READY:d}"
        lanes = (
            "WITH RECURSIVE lanes(kind, lane) AS ("
            f"SELECT k.value, (SELECT min(l.lane) FROM live l WHERE {ready} AND {_IN_KIND})"
            f" FROM {bulk.rows_of('kinds')} "
            "UNION ALL "
            f"SELECT kind, (SELECT min(l.lane) FROM live l WHERE {ready} AND l.lane > lanes.lane"
            " AND l.lane < lanes.kind || '0') FROM lanes WHERE lanes.lane IS NOT NULL)"
        )
        self.lanes = sql(f"{lanes} SELECT lane FROM lanes WHERE lane IS NOT NULL")
        head = f"SELECT l.due_time FROM live l WHERE {ready} AND l.lane = lanes.lane ORDER BY l.create_time LIMIT 1"
        self.oldest_due = sql(f"{lanes} SELECT lane, ({head}) FROM lanes WHERE lane IS NOT NULL")
        # The oldest of each lane: :least of them, or twice an even share of :wanted when that is more.
        most = "max" if is_sqlite else "greatest"
        share = f"SELECT {most}(:least, 2 * :wanted / {most}(count(*), 1) + 1) FROM lanes WHERE lane IS NOT NULL"
        found = "l.lane, l.create_time, l.id, l.payload_bytes + l.checkpoint_bytes"
        self.waiting = sql(
            f"{lanes}, share(number) AS ({share}) SELECT {found}, (SELECT number FROM share)"
            f" FROM lanes CROSS JOIN {self._oldest('(SELECT number FROM share)')} ORDER BY l.lane, l.create_time"
        )
        # The same from marks on, which are ages by lane.
        self.waiting_from = sql(
            f"WITH lanes(lane, mark) AS (SELECT * FROM {bulk.entries_of('marks')}) SELECT {found}"
            f" FROM lanes CROSS JOIN {self._oldest(':share', 'lanes.mark')} ORDER BY l.lane, l.create_time"
        )
        self.running = f"SELECT lane, count(*) FROM live WHERE phase = {Phase.RUNNING:d} GROUP BY lane"
        # With the roots, which come without what is claimed.
        claimed = f"SELECT {_CLAIMED} FROM live l JOIN jobs j ON j.id = l.id WHERE {among('l.id', 'ids')}"
        nothing = ", ".join(["NULL"] * len(rows.CLAIMED_COLUMNS))
        roots = f"SELECT root_id FROM live WHERE parent_id <> '' AND {among('id', 'ids')}"
        self.claimed = sql(f"{claimed} UNION ALL SELECT {_LIVE}, {nothing} FROM live WHERE id IN ({roots})")

        self.insert_jobs = bulk.insert(tables.jobs, rows.JOB_COLUMNS)
        self.insert_live = bulk.insert(tables.live, rows.LIVE_COLUMNS)
        self.update_live = bulk.update(tables.live, "id", rows.STANDING_COLUMNS)
        self.delete_live = sql(f"DELETE FROM live WHERE {among('id', 'ids')}")
        self.update_ended = bulk.update(tables.jobs, "id", rows.ENDING_COLUMNS)
        self.update_checkpoints = bulk.update(tables.jobs, "id", ("checkpoint",))
        self.insert_events = bulk.insert(tables.events, rows.EVENT_COLUMNS)
        self.insert_stops = bulk.insert(tables.stops, rows.STOP_COLUMNS)
        self.insert_attempt_errors = bulk.insert(tables.attempt_errors, rows.ATTEMPT_ERROR_COLUMNS)
        self.insert_audit = bulk.insert(tables.audit, rows.AUDIT_COLUMNS)
        self.insert_compactions = bulk.insert(tables.compactions, ("root_id",))

    def _oldest(self, number: str, mark: str = "0") -> str:
        """So many of the oldest ready jobs of a lane, from a mark on, as a table `l`.

        SQLite has no LATERAL: there the age of the first one that is too many bounds the search, and CROSS JOIN keeps the order of
        the join.
        """

        def ready(table: str) -> str:
            return (
                f"live {table} WHERE {table}.phase = {Phase.READY:d} AND {table}.lane = lanes.lane"
                f" AND {table}.create_time >= {mark} AND {table}.deadline > :now"
            )

        in_order = f"{ready('i')} ORDER BY i.create_time LIMIT"
        if not self._is_sqlite:
            return f"LATERAL (SELECT i.* FROM {in_order} {number}) l"
        beyond = f"SELECT i.create_time FROM {in_order} 1 OFFSET {number}"
        return f"{ready('l')} AND l.create_time < coalesce(({beyond}), {NEVER})"
