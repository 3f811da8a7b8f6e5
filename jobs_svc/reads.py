"""What is read outside of write transactions: jobs, lists, logs. Each method is one read-only transaction."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, or_, select, tuple_

from jobs_svc import rows
from jobs_svc.audit import AuditRecord
from jobs_svc.events import Event
from jobs_svc.job import Job, Phase, Stop, parse_lane
from jobs_svc.statements import Statements
from jobs_svc.tables import audit, compactions, events, jobs, live, stops
from svc_common.endings import JobState
from svc_common.errors import ErrorReason, ServiceError, invalid_field
from svc_common.store import Database

EVENTS_PER_PAGE = 500
BYTES_PER_PAGE = 4 * 1024 * 1024
_state = case(
    (jobs.c.state != 0, jobs.c.state),
    (live.c.phase == Phase.RUNNING, int(JobState.RUNNING)),
    else_=int(JobState.QUEUED),
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; empty and zero values do not narrow."""

    root_id: str = ""
    tenant: str = ""
    kinds: Sequence[str] = ()
    states: Sequence[JobState] = ()
    created_after: int = 0
    created_before: int = 0
    roots_only: bool = False
    job_ids: Sequence[str] = ()
    omit_content: bool = False
    omit_outcome: bool = False


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some entries of a log, whether there were no more, and whether there never will be."""

    events: Sequence[Event]
    is_all: bool
    is_end: bool


class Reads:
    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._sql = statements
        self._bulk = statements.bulk

    async def job(self, job_id: str) -> Job:
        """Raises JOB_NOT_FOUND."""

        def read(connection: Connection) -> Job | None:
            found = self._read_jobs(connection, [job_id], self._sql.jobs)
            return found[0] if found else None

        if (job := await self._database.read(read)) is None:
            raise _not_found(job_id)
        return job

    async def list_jobs(self, wanted: JobFilter, page_size: int, page_token: str) -> tuple[list[Job], str]:
        """A page, newest first, and the token of the next one."""
        start = _parse_token(page_token) if page_token else None

        def read(connection: Connection) -> tuple[list[Job], str]:
            query = select(jobs.c.create_time, jobs.c.id).select_from(
                jobs.outerjoin(live, jobs.c.id == live.c.id) if wanted.states else jobs
            )
            query = query.where(*_conditions(wanted)).order_by(jobs.c.create_time.desc(), jobs.c.id.desc())
            if start:
                query = query.where(tuple_(jobs.c.create_time, jobs.c.id) < start)
            keys = connection.execute(query.limit(page_size + 1)).all()
            page = [id_ for _, id_ in keys[:page_size]]
            token = _token(*keys[page_size - 1]) if len(keys) > page_size else ""
            return self._read_jobs(connection, page, self._statement(wanted)), token

        return await self._database.read(read)

    def _statement(self, wanted: JobFilter) -> str:
        if wanted.omit_content:
            return self._sql.jobs_without_content
        return self._sql.jobs_without_outcome if wanted.omit_outcome else self._sql.jobs

    def _read_jobs(self, connection: Connection, ids: Sequence[str], statement: str) -> list[Job]:
        parameters = {"ids": self._bulk.list_of(ids)}
        found = {job.id: job for job in map(rows.job_of, self._bulk.read(connection, statement, parameters))}
        for standing in map(rows.live_job, self._bulk.read(connection, self._sql.live, parameters)):
            found[standing.id].stands_as(standing)
        for job_id, errors in rows.attempt_errors_of(
            self._bulk.read(connection, self._sql.attempt_errors, parameters)
        ).items():
            found[job_id].attempt_errors = errors
        return [found[id_] for id_ in ids if id_ in found]

    async def log(self, root_id: str, after_sequence: int) -> LogPage:
        """The next entries of a root's log. Raises JOB_NOT_FOUND."""
        columns = [events.c[name] for name in rows.EVENT_COLUMNS]
        size = func.sum(func.length(events.c.data)).over(order_by=events.c.sequence).label("size")
        page = select(*columns, size).where(events.c.root_id == root_id, events.c.sequence > after_sequence)
        page_rows = page.order_by(events.c.sequence).limit(EVENTS_PER_PAGE).subquery()
        # Up to and with the entry that fills the page.
        query = select(page_rows).where(page_rows.c.size - func.length(page_rows.c.data) < BYTES_PER_PAGE)
        root = select(jobs.c.state).where(jobs.c.id == root_id, jobs.c.parent_id == "")

        def read(connection: Connection) -> LogPage | None:
            # The root first: if it has ended by now, what is read next holds its end.
            state = connection.execute(root).scalar()
            if state is None:
                return None
            found = connection.execute(query.order_by(page_rows.c.sequence)).all()
            is_all = len(found) < EVENTS_PER_PAGE and (not found or found[-1].size < BYTES_PER_PAGE)
            return LogPage([rows.event_of(row[:-1]) for row in found], is_all, is_all and state != 0)

        if (log := await self._database.read(read)) is None:
            raise _not_found(root_id)
        return log

    async def last_sequences(self, root_ids: Iterable[str]) -> Mapping[str, int]:
        """The last sequence of each log whose root has not ended."""
        parameters = {"ids": self._bulk.list_of(root_ids)}
        return await self._database.read(
            lambda connection: dict(self._bulk.read(connection, self._sql.last_sequences, parameters))
        )

    async def ready_lanes(self, kinds: Iterable[str]) -> Sequence[str]:
        """The lanes of these kinds in which jobs wait that can be leased."""
        parameters = {"kinds": self._bulk.list_of(kinds)}
        return await self._database.read(
            lambda connection: [lane for (lane,) in self._bulk.read(connection, self._sql.lanes, parameters)]
        )

    async def oldest_due(self, kinds: Iterable[str]) -> Mapping[str, int]:
        """By kind, since when the oldest job that can be leased has been due."""
        parameters = {"kinds": self._bulk.list_of(kinds)}
        found = await self._database.read(
            lambda connection: self._bulk.read(connection, self._sql.oldest_due, parameters)
        )
        oldest: dict[str, int] = {}
        for lane, due_time in found:
            kind = parse_lane(lane)[0]
            oldest[kind] = min(due_time, oldest.get(kind, due_time))
        return oldest

    async def roots_to_compact(self, limit: int) -> Sequence[str]:
        query = select(compactions.c.root_id).limit(limit)
        return await self._database.read(lambda connection: connection.execute(query).scalars().all())

    async def stops_since(self, worker_ids: Iterable[str], time: int) -> list[Stop]:
        query = select(*(stops.c[name] for name in rows.STOP_COLUMNS)).where(
            stops.c.worker_id.in_(list(worker_ids)), stops.c.time >= time
        )
        return await self._database.read(
            lambda connection: [rows.stop_of(row) for row in connection.execute(query.order_by(stops.c.time))]
        )

    async def audit_log(self, root_id: str, after_sequence: int, limit: int) -> list[AuditRecord]:
        """Raises JOB_NOT_FOUND."""
        columns = [audit.c[name] for name in rows.AUDIT_COLUMNS]
        query = select(*columns).where(audit.c.root_id == root_id, audit.c.sequence > after_sequence)
        exists = select(jobs.c.id).where(jobs.c.id == root_id)

        def read(connection: Connection) -> list[AuditRecord] | None:
            found = connection.execute(query.order_by(audit.c.sequence).limit(limit))
            log = [AuditRecord(*row) for row in found]
            return log if log or connection.execute(exists).first() else None

        if (log := await self._database.read(read)) is None:
            raise _not_found(root_id)
        return log

    async def next_wake(self) -> int | None:
        return await self._database.read(lambda connection: self._bulk.read(connection, self._sql.next_wake)[0][0])


def _conditions(wanted: JobFilter) -> list[Any]:
    conditions: list[Any] = []
    if wanted.root_id:
        is_child = (jobs.c.root_id == wanted.root_id) & (jobs.c.parent_id != "")
        conditions.append(or_(jobs.c.id == wanted.root_id, is_child))
    if wanted.tenant:
        conditions.append(jobs.c.tenant == wanted.tenant)
    if wanted.kinds:
        conditions.append(jobs.c.kind.in_(wanted.kinds))
    if wanted.states:
        conditions.append(_state.in_([int(state) for state in wanted.states]))
    if wanted.created_after:
        conditions.append(jobs.c.create_time >= wanted.created_after)
    if wanted.created_before:
        conditions.append(jobs.c.create_time < wanted.created_before)
    if wanted.job_ids:
        conditions.append(jobs.c.id.in_(wanted.job_ids))
    if wanted.roots_only:
        conditions.append(jobs.c.parent_id == "")
    return conditions


def _token(create_time: int, job_id: str) -> str:
    return base64.urlsafe_b64encode(f"{create_time}/{job_id}".encode()).decode()


def _parse_token(token: str) -> tuple[int, str]:
    try:
        time, _, job_id = base64.urlsafe_b64decode(token.encode()).decode().partition("/")
        return int(time), job_id
    except (ValueError, binascii.Error) as error:
        raise invalid_field("page_token", "is not one that this service gave out") from error


def _not_found(job_id: str) -> ServiceError:
    return ServiceError(ErrorReason.JOB_NOT_FOUND, f"no job has the id {job_id}")
