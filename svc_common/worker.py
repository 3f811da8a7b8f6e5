"""The pulling side of the queue: claims jobs, runs a handler for each, and reports without the handler having to care.

Used by both doers. Heartbeats go on whatever the handlers do. A lease that is lost, aborted or past its deadline cancels its
handler.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from svc_common import deadline
from svc_common.channel import call, stream
from svc_common.errors import ErrorReason, ServiceError
from svc_common.ids import new_id
from svc_common.job_run import REPEATABLE, Handler, JobRun, LeaseLost, Outcome, Reporter, refuse
from svc_common.tasks import supervised
from svc_common.times import MICROS, from_timestamp, now

logger = logging.getLogger(__name__)

_CLAIM_WAIT_SECONDS = 20
_STOPS_PAUSE_SECONDS = 0.2
_MAX_CLAIMED = 256


class Worker:
    """Claims jobs of some kinds for `slots` handlers. Build, `start`, and in the end `stop`."""

    def __init__(
        self,
        stub: jobs_pb2_grpc.JobsServiceAsyncStub,
        *,
        worker_id: str,
        kinds: list[str],
        slots: int,
        handler: Handler,
    ) -> None:
        self._stub = stub
        self.worker_id = worker_id
        self._kinds = kinds
        self._slots = slots
        self._handler = handler
        self._runs: dict[tuple[str, int], JobRun] = {}
        self._slot_free = asyncio.Event()
        self._slot_free.set()
        self._idle = asyncio.Event()
        self._idle.set()
        # Until the first claim is answered with the service's own: short, so that no lease ends before.
        self._heartbeat_seconds = 1.0
        self._draining = False
        self._claim_id = ""  # of the claim under way
        self._reporter = Reporter(stub, worker_id, self._runs, self._lose, self._next_claim, self.adopt)
        self._loops: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        return len(self._runs)

    def start(self) -> None:
        self._loops = [
            asyncio.create_task(supervised("claims", self._claim, until=lambda: self._draining)),
            # Soon again after an outage: what is ended meanwhile goes on, and costs, until this watch is back.
            asyncio.create_task(supervised("stops", self._watch_stops, max_pause=_STOPS_PAUSE_SECONDS)),
            asyncio.create_task(supervised("heartbeats", self._beat)),
            asyncio.create_task(supervised("reports", self._reporter.run)),
        ]

    async def stop(self, drain_seconds: float) -> None:
        """Claims nothing more, lets handlers finish for `drain_seconds`, and gives back the leases of those that have not."""
        self._draining = True
        if not self._loops:
            return
        await self._retire()
        try:
            await asyncio.wait_for(self._idle.wait(), drain_seconds)
        except TimeoutError:
            for run in list(self._runs.values()):
                if run.task is not None:
                    run.task.cancel()
            try:
                await asyncio.wait_for(self._idle.wait(), 2.0)
            except TimeoutError:
                logger.warning("%d leases could not be given back and will expire", len(self._runs))
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def _retire(self) -> None:
        """Ends the claims. A claim that is merely cancelled may have been granted already, to a worker that never hears of it."""
        claims = self._loops[0]
        self._slot_free.set()  # a loop that waits for a place shall see that it is over
        with suppress(ServiceError):
            await call(self._stub.RetireWorker, jobs_pb2.RetireWorkerRequest(worker_id=self.worker_id), timeout=1.0)
            await asyncio.wait({claims}, timeout=1.0)
        claims.cancel()

    def adopt(self, lease: jobs_pb2.Lease) -> JobRun:
        """Starts the handler for a lease, claimed here or got when the job was created."""
        run = JobRun(lease.job, lease.fencing_token, self._reporter)
        key = (run.job.id, run.fencing_token)
        self._runs[key] = run
        self._idle.clear()
        if len(self._runs) >= self._slots:
            self._slot_free.clear()
        run.task = asyncio.create_task(self._run(run), name=f"job {run.job.id}")
        return run

    async def _run(self, run: JobRun) -> None:
        left = (from_timestamp(run.job.deadline) - now()) / MICROS
        deadline_timer = asyncio.get_running_loop().call_later(max(0.0, left), self._expire, run)
        try:
            run.outcome = await self._outcome(run)
            await run.flush()
        except LeaseLost:
            what = "stopped" if run.outcome is None else "done too late"
            logger.info("job %s: %s, its lease is over", run.job.id, what)
        finally:
            deadline_timer.cancel()
            self._runs.pop((run.job.id, run.fencing_token), None)
            self._slot_free.set()
            if not self._runs:
                self._idle.set()

    async def _outcome(self, run: JobRun) -> Outcome:
        try:
            with deadline.scope(from_timestamp(run.job.deadline)):
                return await self._handler(run)
        except asyncio.CancelledError:
            if run.stop_reason:
                raise LeaseLost from None
            if self._draining:
                return jobs_pb2.Release(delay=Duration())
            raise
        except LeaseLost:
            raise
        except ServiceError as error:
            logger.warning("job %s failed: %r", run.job.id, error)
            is_late = error.reason is ErrorReason.DEADLINE_EXCEEDED
            return jobs_pb2.Failure(
                reason=common_pb2.END_REASON_TIMEOUT if is_late else common_pb2.END_REASON_INTERNAL_ERROR,
                message=error.message,
                retryable=error.reason in REPEATABLE,
            )
        except Exception:  # the isolation of one job from the others
            logger.exception("job %s failed", run.job.id)
            return jobs_pb2.Failure(
                reason=common_pb2.END_REASON_INTERNAL_ERROR, message="internal error of the worker", retryable=True
            )

    def _expire(self, run: JobRun) -> None:
        """The queue ends a job at its deadline. When it is away and cannot say so, the work must end all the same."""
        if run.outcome is None:
            self._lose(run, common_pb2.END_REASON_TIMEOUT)

    def _lose(self, run: JobRun, reason: int) -> None:
        """Ends a run whose lease is over; its news is refused from now on."""
        run.stop_reason = reason or common_pb2.END_REASON_CANCELLED
        refuse(run.recorded)
        if run.task is not None and run.outcome is None:
            run.task.cancel()

    async def _claim(self) -> None:
        while not self._draining:
            await self._slot_free.wait()
            free = self._slots - len(self._runs)
            if free <= 0:
                self._slot_free.clear()
                continue
            # A claim whose reply was lost goes out again under its id, and brings the leases that were given then.
            self._claim_id = self._claim_id or new_id()
            response = await call(
                self._stub.ClaimJobs,
                jobs_pb2.ClaimJobsRequest(
                    worker_id=self.worker_id,
                    kinds=self._kinds,
                    max_jobs=min(free, _MAX_CLAIMED),
                    max_wait=Duration(seconds=_CLAIM_WAIT_SECONDS),
                    claim_id=self._claim_id,
                ),
                timeout=_CLAIM_WAIT_SECONDS + 10,
            )
            self._claim_id = ""
            if response.HasField("heartbeat_interval"):
                self._heartbeat_seconds = max(0.05, response.heartbeat_interval.ToMicroseconds() / 1e6)
            for lease in response.leases:
                self.adopt(lease)

    def _next_claim(self, ending: int) -> jobs_pb2.NextClaim | None:
        """A claim for the places of jobs that are about to end: their next ones come with the answer to their reports."""
        free = min(ending, self._slots - len(self._runs) + ending, _MAX_CLAIMED)
        if self._draining or free <= 0:
            return None
        return jobs_pb2.NextClaim(kinds=self._kinds, max_jobs=free, claim_id=new_id())

    async def _watch_stops(self) -> None:
        request = jobs_pb2.WatchStopsRequest(worker_id=self.worker_id)
        async with stream(self._stub.WatchStops(request)) as stops:
            async for stop in stops:
                run = self._runs.get((stop.job_id, stop.fencing_token))
                if run is not None:
                    self._lose(run, stop.reason)
        raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "the watch for stops ended")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds / 2)
            for run in self._runs.values():
                run.heartbeat_due = True
            if self._runs:
                self._reporter.wake(urgent=True)
