"""The queue as its callers see it: commits their operations in groups and lets those who wait know at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, cast

from jobs_svc.audit import AppendAudit
from jobs_svc.counters import Counters
from jobs_svc.events import Event, after
from jobs_svc.job import Phase, Stop, parse_lane
from jobs_svc.operations import AbortJobs, Created, CreateJobs, Lease, Release, Report, Reported
from jobs_svc.reads import Reads
from jobs_svc.transaction import Changes, Operation, ReportJobs
from jobs_svc.turns import Claimer
from jobs_svc.watches import LogWatches, StopWatches, Waiters
from svc_common.errors import ErrorReason, ServiceError
from svc_common.group_commit import GroupCommitter
from svc_common.times import MICROS, Clock

# How long a stop is repeated to a worker that connects; longer than any lease goes on unnoticed.
STOP_MEMORY = 600 * MICROS
RETIRED_REMEMBERED = 10_000


class JobQueue:
    def __init__(
        self, committer: GroupCommitter[Operation, Any], reads: Reads, clock: Clock, counters: Counters
    ) -> None:
        self._committer = committer
        self._clock = clock
        self.reads = reads
        self.counters = counters
        self.logs = LogWatches()
        self.stops = StopWatches()
        self.waiters = Waiters()
        self._retired: dict[str, None] = {}
        self._giving_back: set[asyncio.Future[Any]] = set()

    async def create(self, op: CreateJobs) -> list[Created]:
        return cast(list[Created], await self._committer.submit(op))

    async def report(self, reports: Sequence[Report]) -> list[Reported]:
        return cast(list[Reported], await self._committer.submit(ReportJobs(reports)))

    async def abort(self, op: AbortJobs) -> int:
        return cast(int, await self._committer.submit(op))

    async def append_audit(self, op: AppendAudit) -> int:
        return cast(int, await self._committer.submit(op))

    async def claim(self, claimer: Claimer, max_wait: float) -> list[Lease]:
        """Leases for the claimer, waiting up to `max_wait` seconds for the first."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + max_wait
        with self.waiters.wait(claimer.worker_id, claimer.kinds) as waiter:
            while claimer.worker_id not in self._retired:
                waiter.ready.clear()
                leases = await self._claim(claimer)
                if leases or loop.time() >= give_up:
                    return leases
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(give_up):
                        await waiter.ready.wait()
        return []

    def retire(self, worker_id: str) -> None:
        """Gives the worker no further leases. Remembers the last of them only: names are not used again."""
        self._retired[worker_id] = None
        if len(self._retired) > RETIRED_REMEMBERED:
            del self._retired[next(iter(self._retired))]
        self.waiters.wake_worker(worker_id)

    async def _claim(self, claimer: Claimer) -> list[Lease]:
        claim = asyncio.ensure_future(self._committer.submit(claimer))
        try:
            return cast(list[Lease], await asyncio.shield(claim))
        except asyncio.CancelledError:
            claim.add_done_callback(self._give_back)
            raise

    def _give_back(self, claim: asyncio.Future[list[Lease]]) -> None:
        """The worker left before it got its leases: nobody would work on them until they expire."""
        if claim.cancelled() or claim.exception() or not claim.result():
            return
        reports = [Report(lease.job.id, lease.fencing_token, outcome=Release()) for lease in claim.result()]
        self._giving_back.add(report := asyncio.ensure_future(self.report(reports)))
        report.add_done_callback(self._giving_back.discard)

    async def watch_log(self, root_id: str, sequence: int) -> AsyncGenerator[Sequence[Event], None]:
        """The entries of a root's log after `sequence`, as they come, until its last. Raises JOB_NOT_FOUND, WATCHER_TOO_SLOW."""
        with self.logs.watch(root_id) as watch:
            while True:
                watch.restart()
                page = await self.reads.log(root_id, sequence)
                events: Sequence[Event] | None = page.events
                while events is not None:
                    if seen := [left for event in events if (left := after(event, sequence))]:
                        sequence = seen[-1].sequence
                        yield seen
                        if seen[-1].is_last:
                            return
                    events = await watch.next(sequence) if page.is_all else None

    async def watch_stops(self, worker_id: str) -> AsyncGenerator[Sequence[Stop], None]:
        """The worker's leases that are over, the recent ones first; the first item is empty and says that the watch stands."""
        with self.stops.watch(worker_id) as watch:
            yield ()
            if recent := await self.reads.stops_since([worker_id], self._clock() - STOP_MEMORY):
                yield recent
            while True:
                yield await watch.next()

    async def recount(self) -> None:
        """Takes the counters anew from the store."""
        counts: Counter[tuple[str, Phase]] = Counter()
        for (phase, lane), number in (await self.reads.counts()).items():
            counts[parse_lane(lane)[0], phase] += number
        self.counters.reset(counts)

    def publish(self, changes: Changes) -> None:
        """Tells those who wait what was committed. Called on the loop, in the order of the commits."""
        self.logs.publish(changes.events)
        self.stops.publish(changes.stops)
        self.counters.add(changes.moved)
        for (kind, phase), number in changes.moved.items():
            if phase is Phase.READY:
                self.waiters.wake(kind, number)
            elif phase is Phase.RUNNING:  # an end makes room under a limit
                self.waiters.wake(kind, -number)

    def close(self) -> None:
        """Ends all watches and waits, so that they go on at another replica."""
        stopping = ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "the service is stopping; watch again elsewhere")
        self.logs.close(stopping)
        self.stops.close(stopping)
        self.waiters.close()
