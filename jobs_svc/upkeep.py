"""What is done in the background, in small steps: the text of finished roots is merged, old trees are removed, and a job with which
something is wrong is set aside."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from jobs_svc import rows
from jobs_svc.events import merged
from jobs_svc.reads import Reads, page_of_log
from jobs_svc.tables import attempt_errors, audit, compactions, events, jobs, live, stops
from jobs_svc.transaction import Operation, Upkeep
from jobs_svc.watches import STOP_MEMORY
from svc_common.group_commit import GroupCommitter
from svc_common.times import Clock

STEP_ROWS = 1000
ROOTS_PER_STEP = 20
PAUSE_SECONDS = 0.05  # between steps, so that callers are not held up
IDLE_SECONDS = 1.0


_GONE = delete(events).where(
    events.c.root_id == bindparam("root"),
    events.c.sequence >= bindparam("first"),
    events.c.sequence < bindparam("last"),
)
_MERGED = (
    update(events)
    .where(events.c.root_id == bindparam("root"), events.c.sequence == bindparam("last"))
    .values(first_sequence=bindparam("first"), data=bindparam("text"), pieces=bindparam("lengths"))
)
_DONE = delete(compactions).where(compactions.c.root_id == bindparam("root"))


def set_aside(job_id: str, until: int) -> Upkeep:
    """Lets nothing be due to a job for a while."""
    later = update(live).where(live.c.id == job_id).values(wake_time=until)

    def work(connection: Connection) -> None:
        connection.execute(later)

    return Upkeep(work)


class Compactor:
    """Merges the text of logs whose roots have ended. Several replicas may be at one log: each page is read, merged and written in
    one step, which is one replica's alone."""

    def __init__(self, committer: GroupCommitter[Operation, Any], reads: Reads) -> None:
        self._committer = committer
        self._reads = reads

    async def run(self) -> None:
        while True:
            roots = await self._reads.roots_to_compact(ROOTS_PER_STEP)
            for root_id in roots:
                await self.compact(root_id)
                await asyncio.sleep(PAUSE_SECONDS)
            if not roots:
                await asyncio.sleep(IDLE_SECONDS)

    async def compact(self, root_id: str) -> None:
        """Merges one log, page by page."""
        sequence: int | None = 0
        while sequence is not None:
            sequence = await self._committer.submit(Upkeep(partial(_merge_page, root_id, sequence)))


def _merge_page(root_id: str, after_sequence: int, connection: Connection) -> int | None:
    """Merges the text of a page of a log. Returns where the next page begins, None when it was the last."""
    page = page_of_log(connection, root_id, after_sequence)
    was = {event.sequence: event for event in page.events}
    values = [rows.event_values(event) for event in merged(page.events) if event is not was[event.sequence]]
    if changed := [dict(zip(rows.EVENT_COLUMNS, row, strict=True)) for row in values]:
        runs = [{"root": root_id, "first": row["first_sequence"], "last": row["sequence"]} for row in changed]
        connection.execute(_GONE, runs)
        texts = [{"text": row["data"], "lengths": row["pieces"]} for row in changed]
        connection.execute(_MERGED, [run | text for run, text in zip(runs, texts, strict=True)])
    if page.is_all:
        connection.execute(_DONE, {"root": root_id})
        return None
    return page.events[-1].sequence


class Retention:
    """Removes trees that ended long ago, the root last, so that what was begun goes on after a restart."""

    def __init__(
        self, committer: GroupCommitter[Operation, Any], clock: Clock, *, keep: int, interval_seconds: float
    ) -> None:
        """`keep` is in microseconds, counted from the end of the root."""
        self._committer = committer
        self._clock = clock
        self._keep = keep
        self._interval = interval_seconds

    async def run(self) -> None:
        while True:
            has_more = await self._committer.submit(Upkeep(self._step))
            await asyncio.sleep(PAUSE_SECONDS if has_more else self._interval)

    def _step(self, connection: Connection) -> bool:
        """Removes some rows; False when there was nothing to remove."""
        connection.execute(delete(stops).where(stops.c.time < self._clock() - STOP_MEMORY))
        before = self._clock() - self._keep
        is_old = (jobs.c.create_time < before) & (jobs.c.state != 0) & (jobs.c.end_time < before)
        oldest = select(jobs.c.id).where(jobs.c.parent_id == "", is_old).order_by(jobs.c.create_time)
        root_ids = connection.execute(oldest.limit(ROOTS_PER_STEP)).scalars().all()
        left = STEP_ROWS
        for root_id in root_ids:
            left -= _remove(connection, root_id, left)
            if left <= 0:
                break
        return bool(root_ids)


def _remove(connection: Connection, root_id: str, limit: int) -> int:
    """Removes up to `limit` rows of a tree, and the root itself once nothing else is left. Returns how many."""
    removed = 0
    for log in (events, audit):
        first = select(log.c.sequence).where(log.c.root_id == root_id).order_by(log.c.sequence).limit(limit - removed)
        doomed = connection.execute(first).scalars().all()
        connection.execute(delete(log).where(log.c.root_id == root_id, log.c.sequence.in_(doomed)))
        removed += len(doomed)
        if removed >= limit:
            return removed
    is_child = (jobs.c.root_id == root_id) & (jobs.c.parent_id != "")
    children = connection.execute(select(jobs.c.id).where(is_child).limit(limit - removed)).scalars().all()
    is_complete = removed + len(children) < limit
    ids = [*children, root_id] if is_complete else list(children)
    connection.execute(delete(attempt_errors).where(attempt_errors.c.job_id.in_(ids)))
    connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    if is_complete:
        connection.execute(delete(compactions).where(compactions.c.root_id == root_id))
    return removed + len(ids)
