"""What a snapshot that stays open does to the queue on PostgreSQL: nothing that is gone can be cleaned up until it closes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from bench.queues.measures import Extent
from jobs_svc.job import NewJob
from jobs_svc.operations import CreateJobs, Report, Success
from jobs_svc.policy import Policy
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.transaction import ReportJobs
from jobs_svc.turns import Claimer
from svc_common.store import Database, migrate, open_engine
from svc_common.times import MICROS, now

BATCH = 100
_WORKER = Claimer("w", frozenset({"work"}), BATCH)


@dataclass(frozen=True)
class Bloat:
    """Jobs per second that are created, leased and ended in batches of BATCH, and dead rows of the table of unfinished jobs."""

    before: float
    at_first: float  # with the snapshot open
    in_the_end: float
    after: float
    dead_rows: int


def measure(url: str, extent: Extent) -> Bloat:
    """Without gRPC, so that what is measured is the store."""
    database = Database(open_engine(url))
    migrate(database.engine, MIGRATIONS)
    store = Store(database, Policy(lease_time=600 * MICROS), now, lambda changes: None)
    _rate(store, extent.seconds / 2)  # the caches fill
    before = _rate(store, extent.seconds)
    with _snapshot(url):
        at_first = _rate(store, extent.seconds)
        _rate(store, 5 * extent.seconds)
        in_the_end = _rate(store, extent.seconds)
        dead_rows = _dead_rows(url)
    after = _rate(store, extent.seconds)
    database.close()
    return Bloat(before, at_first, in_the_end, after, dead_rows)


def _rate(store: Store, seconds: float) -> float:
    began = time.perf_counter()
    done = 0
    while time.perf_counter() - began < seconds:
        deadline = now() + 3600 * MICROS
        first = time.time_ns()
        store.execute([CreateJobs([NewJob(f"{first + n}", "work", deadline, tenant="bench") for n in range(BATCH)])])
        [taken] = store.execute([_WORKER])
        reports = [Report(lease.job.id, lease.fencing_token, outcome=Success()) for lease in taken.leases]
        store.execute([ReportJobs(reports)])
        done += len(reports)
    return done / (time.perf_counter() - began)


@contextmanager
def _snapshot(url: str) -> Iterator[None]:
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM live")
        yield


def _dead_rows(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'live'").fetchone()
    return int(row[0]) if row else 0
