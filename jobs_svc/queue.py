"""The queue as its callers see it: commits their operations in groups and lets those who wait know at once."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from jobs_svc.audit import AppendAudit
from jobs_svc.counters import Counters
from jobs_svc.events import Event, after
from jobs_svc.job import Stop
from jobs_svc.operations import AbortJobs, Created, CreateJobs, Lease, Release, Report
from jobs_svc.policy import Policy
from jobs_svc.reads import Reads
from jobs_svc.transaction import Changes, Operation, Recount, ReportJobs, Taken
from jobs_svc.turns import Claimer
from jobs_svc.watches import STOP_MEMORY, LogWatches, StopWatches, Waiter, Waiters
from svc_common.errors import ErrorReason, ServiceError
from svc_common.group_commit import GroupCommitter
from svc_common.times import Clock

logger = logging.getLogger(__name__)

EVENTS_GATHER_SECONDS = 0.005

LeasesIn = Callable[[Any], Sequence[Lease]]


def _leases_of(taken: Taken) -> Sequence[Lease]:
    return taken.leases


class JobQueue:
    def __init__(self, committer: GroupCommitter[Operation, Any], reads: Reads, clock: Clock, policy: Policy) -> None:
        self._committer = committer
        self._policy = policy
        self._clock = clock
        self.reads = reads
        self.counters = Counters()
        self.logs = LogWatches()
        self.stops = StopWatches()
        self.waiters = Waiters()
        self.on_retire: Callable[[str], None] = lambda worker_id: None  # lets other replicas know
        self._giving_back: set[asyncio.Future[Any]] = set()

    async def create(self, op: CreateJobs) -> list[Created]:
        """Workers that wait for such jobs claim them in the very commit that creates them."""
        chosen: dict[Waiter, str] = {}
        if not op.claim_for:
            for kind, number in Counter(job.kind for job in op.jobs).items():
                chosen.update((waiter, kind) for waiter in self.waiters.choose(kind, number))
        creation, *claims = self._committer.enqueue(op, *(waiter.claimer for waiter in chosen))
        for (waiter, kind), claim in zip(chosen.items(), claims, strict=True):
            waiter.wake(kind, claim)
        created: list[Created] = await self._answer(
            creation, lambda created: [job.lease for job in created if job.lease]
        )
        return created

    async def report(self, reports: Sequence[Report], claimer: Claimer | None = None) -> Taken:
        """The results of the reports and, for a claimer, what it is leased after them without waiting."""
        if claimer is not None and self.waiters.is_retired(claimer.worker_id):
            claimer = None
        return await self._taken(self._committer.enqueue(ReportJobs(reports, claimer))[0])

    async def abort(self, op: AbortJobs) -> int:
        return cast(int, await self._committer.submit(op))

    async def append_audit(self, op: AppendAudit) -> int:
        return cast(int, await self._committer.submit(op))

    async def claim(self, claimer: Claimer, max_wait: float) -> list[Lease]:
        """Leases for the claimer, waiting up to `max_wait` seconds for the first."""
        give_up = asyncio.get_running_loop().time() + max_wait
        with self.waiters.wait(claimer) as waiter:
            try:
                while not self.waiters.is_over(waiter):
                    taken = await self._taken(waiter.take_claim() or self._committer.enqueue(claimer)[0])
                    waiter.has_taken({lease.job.kind for lease in taken.leases})
                    if taken.leases:
                        return taken.leases
                    if not await waiter.ready(give_up):
                        break
            finally:
                # One that was made for this waiter while it took another, or left: its leases would go to nobody.
                if waiter.claim:
                    waiter.claim.add_done_callback(partial(self._give_back, _leases_of))
        return []

    async def _taken(self, taking: asyncio.Future[Taken]) -> Taken:
        taken: Taken = await self._answer(taking, _leases_of)
        return taken

    async def _answer(self, answer: asyncio.Future[Any], leases_in: LeasesIn) -> Any:
        """An answer to a caller who may leave before it comes: nobody would work on its leases until they expire."""
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(partial(self._give_back, leases_in))
            raise

    def _give_back(self, leases_in: LeasesIn, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled() or answer.exception():
            return
        if reports := [
            Report(lease.job.id, lease.fencing_token, outcome=Release()) for lease in leases_in(answer.result())
        ]:
            self._giving_back.add(report := asyncio.ensure_future(self.report(reports)))
            report.add_done_callback(self._given_back)

    def _given_back(self, report: asyncio.Future[Any]) -> None:
        self._giving_back.discard(report)
        if not report.cancelled() and (error := report.exception()):
            logger.info("leases whose claimer left could not be given back, and will expire: %s", error)

    def retire(self, worker_id: str) -> None:
        """Gives the worker no further leases."""
        self.waiters.retire(worker_id)
        self.on_retire(worker_id)

    async def watch_log(self, root_id: str, sequence: int) -> AsyncGenerator[Sequence[Event], None]:
        """The entries of a root's log after `sequence`, as they come, until its last. Raises JOB_NOT_FOUND, WATCHER_TOO_SLOW."""
        clock = asyncio.get_running_loop()
        with self.logs.watch(root_id) as watch:
            while True:
                watch.restart()
                page = await self.reads.log(root_id, sequence)
                events: Sequence[Event] | None = page.events
                while events is not None:
                    if seen := [left for event in events if (left := after(event, sequence))]:
                        sequence = seen[-1].sequence
                        sent = clock.time()
                        yield seen
                        if seen[-1].is_last:
                            return
                        # What is committed within moments goes out together: a message for each commit would cost both sides more.
                        if page.is_all:
                            await asyncio.sleep(max(0.0, sent + EVENTS_GATHER_SECONDS - clock.time()))
                    if page.is_end:
                        return
                    events = await watch.next(sequence) if page.is_all else None

    async def watch_stops(self, worker_id: str) -> AsyncGenerator[Sequence[Stop], None]:
        """The worker's leases that are over, the recent ones first; the first item is empty and says that the watch stands."""
        with self.stops.watch(worker_id) as watch:
            yield ()
            if recent := watch.unsent(await self.reads.stops_since([worker_id], self._clock() - STOP_MEMORY)):
                yield recent
            while True:
                if stops := await watch.next():
                    yield stops

    async def oldest_due_ages(self) -> Mapping[str, int]:
        """By kind, for how many microseconds the oldest due job has been so."""
        now = self._clock()
        oldest = await self.reads.oldest_due(self.counters.kinds)
        return {kind: max(0, now - due_time) for kind, due_time in oldest.items()}

    async def recount(self) -> None:
        """Takes the counters anew from the store."""
        await self._committer.submit(Recount())

    def publish(self, changes: Changes) -> None:
        """Tells those who wait what was committed. Called on the loop, in the order of the commits."""
        if changes.in_doubt:
            self.logs.touch(self.logs.roots)
        self.logs.publish(changes.events)
        self.stops.publish(changes.stops)
        if changes.counts is not None:
            self.counters.reset(changes.counts)
        self.counters.add(changes.moved)
        for kind, number in changes.readied.items():
            self.waiters.wake(kind, number)
        self.make_room(changes.freed)

    def make_room(self, freed: Mapping[str, int]) -> None:
        """The end of a lease makes room under a limit: of its own kind, or of its tenant for all kinds."""
        if self._policy.tenant_limit is not None:
            self.waiters.wake_all(sum(freed.values()))
        elif self._policy.has_limits:
            for kind, number in freed.items():
                self.waiters.wake(kind, number)

    def close(self) -> None:
        """Ends all watches and waits, so that they go on at another replica."""
        stopping = ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "the service is stopping; watch again elsewhere")
        self.logs.close(stopping)
        self.stops.close(stopping)
        self.waiters.close()
