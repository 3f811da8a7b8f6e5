"""What is read outside of write transactions: jobs, lists, logs.

Where a job's record and its standing are read, one statement reads both: on PostgreSQL each statement sees a moment of its own.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, bindparam, case, func, literal, or_, select, tuple_

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
_OUTCOME = frozenset({"result", "checkpoint"})
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


_size = func.sum(func.length(events.c.data)).over(order_by=events.c.sequence).label("size")
_next_events = (
    select(*(events.c[name] for name in rows.EVENT_COLUMNS), _size)
    .where(events.c.root_id == bindparam("root"), events.c.sequence > bindparam("after"))
    .order_by(events.c.sequence)
    .limit(EVENTS_PER_PAGE)
    .subquery()
)
# Up to and with the entry that fills the page.
_page = (
    select(_next_events)
    .where(_next_events.c.size - func.length(_next_events.c.data) < BYTES_PER_PAGE)
    .order_by(_next_events.c.sequence)
)
_root = select(jobs.c.state, jobs.c.last_sequence).where(jobs.c.id == bindparam("root"), jobs.c.parent_id == "")


def page_of_log(connection: Connection, root_id: str, after_sequence: int) -> LogPage:
    """The next entries of a root's log. Raises JOB_NOT_FOUND, also when some of them have been removed already."""
    # The root first: if it has ended by now, what is read next holds its end.
    root = connection.execute(_root, {"root": root_id}).first()
    if root is None:
        raise _not_found(root_id)
    found = connection.execute(_page, {"root": root_id, "after": after_sequence}).all()
    log = [rows.event_of(row[:-1]) for row in found]
    if log[0].first_sequence > after_sequence + 1 if log else after_sequence < root.last_sequence:
        raise _not_found(root_id)
    is_all = len(found) < EVENTS_PER_PAGE and (not found or found[-1].size < BYTES_PER_PAGE)
    return LogPage(log, is_all, is_all and root.state != 0)


class Reads:
    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._sql = statements
        self._bulk = statements.bulk

    async def job(self, job_id: str) -> Job:
        """Raises JOB_NOT_FOUND."""
        parameters = {"ids": self._bulk.list_of([job_id])}
        found = await self._database.query(self._sql.job, parameters)
        if not found:
            raise _not_found(job_id)
        job = rows.standing_job(found[0])
        if job.attempt:
            errors = await self._database.query(self._sql.attempt_errors, parameters)
            job.attempt_errors = rows.attempt_errors_of(errors).get(job_id, ())
        return job

    async def list_jobs(self, wanted: JobFilter, page_size: int, page_token: str) -> tuple[list[Job], str]:
        """A page, newest first, and the token of the next one."""
        left_out = _OUTCOME | {"payload"} if wanted.omit_content else _OUTCOME if wanted.omit_outcome else frozenset()
        columns = [literal(b"").label(name) if name in left_out else jobs.c[name] for name in rows.JOB_COLUMNS]
        # One statement, so that a job which ends meanwhile is seen either as it was or as it is.
        query = select(*columns, *(live.c[name] for name in rows.SHOWN_STANDING))
        query = query.select_from(jobs.outerjoin(live, jobs.c.id == live.c.id)).where(*_conditions(wanted))
        if page_token:
            query = query.where(tuple_(jobs.c.create_time, jobs.c.id) < _parse_token(page_token))
        query = query.order_by(jobs.c.create_time.desc(), jobs.c.id.desc()).limit(page_size + 1)

        def read(connection: Connection) -> tuple[list[Job], str]:
            found = [rows.standing_job(row) for row in connection.execute(query)]
            page = found[:page_size]
            parameters = {"ids": self._bulk.list_of(job.id for job in page if job.attempt)}
            errors = rows.attempt_errors_of(self._bulk.read(connection, self._sql.attempt_errors, parameters))
            for job in page:
                job.attempt_errors = errors.get(job.id, ())
            return page, _token(page[-1]) if len(found) > page_size else ""

        return await self._database.read(read)

    async def log(self, root_id: str, after_sequence: int) -> LogPage:
        """The next entries of a root's log. Raises JOB_NOT_FOUND."""
        return await self._database.read(lambda connection: page_of_log(connection, root_id, after_sequence))

    async def last_sequences(self, root_ids: Iterable[str]) -> Mapping[str, int]:
        """The last sequence of each log whose root has not ended."""
        parameters = {"ids": self._bulk.list_of(root_ids)}
        return dict(await self._database.query(self._sql.last_sequences, parameters))

    async def ready_lanes(self, kinds: Iterable[str]) -> Sequence[str]:
        """The lanes of these kinds in which jobs wait that can be leased."""
        parameters = {"kinds": self._bulk.list_of(kinds)}
        return [lane for (lane,) in await self._database.query(self._sql.lanes, parameters)]

    async def oldest_due(self, kinds: Iterable[str]) -> Mapping[str, int]:
        """By kind, since when the oldest job that can be leased has been due."""
        parameters = {"kinds": self._bulk.list_of(kinds)}
        oldest: dict[str, int] = {}
        for lane, due_time in await self._database.query(self._sql.oldest_due, parameters):
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

    async def next_wake(self, since: int) -> int | None:
        """When something is next due to a job, of what is due at `since` or later; None when nothing is."""
        [(wake_time,)] = await self._database.query(self._sql.next_wake, {"since": since})
        return cast(int | None, wake_time)

    async def due(self, since: int, now: int, limit: int) -> list[str]:
        """Ids of jobs to which something has been due since then, the longest first."""
        parameters = {"since": since, "now": now, "limit": limit}
        return [job_id for (job_id,) in await self._database.query(self._sql.due, parameters)]


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


def _token(last: Job) -> str:
    return base64.urlsafe_b64encode(f"{last.create_time}/{last.id}".encode()).decode()


def _parse_token(token: str) -> tuple[int, str]:
    try:
        time, _, job_id = base64.urlsafe_b64decode(token.encode()).decode().partition("/")
        return parse_position(time), job_id
    except (ValueError, binascii.Error) as error:
        raise _bad_token() from error


def parse_position(digits: str) -> int:
    """A place in a list from a page token. Raises INVALID_ARGUMENT."""
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 18:
        raise _bad_token()
    return int(digits)


def _bad_token() -> ServiceError:
    return invalid_field("page_token", "is not one that this service gave out")


def _not_found(job_id: str) -> ServiceError:
    return ServiceError(ErrorReason.JOB_NOT_FOUND, f"no job has the id {job_id}")
