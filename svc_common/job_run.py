"""A leased job as its handler sees it, and the reporter that carries what the handlers say to the queue.

Text is gathered for some tens of milliseconds; reports of all leases share one call; a report that cannot be delivered is repeated,
under its number, until the service is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from svc_common.channel import AWAY, call
from svc_common.errors import ErrorReason, ServiceError

logger = logging.getLogger(__name__)

Outcome = jobs_pb2.Success | jobs_pb2.Failure | jobs_pb2.Release

TEXT_GATHER_SECONDS = 0.03
REPEATABLE = AWAY | {ErrorReason.DEADLINE_EXCEEDED}
"""Reasons for which the same call may succeed later."""
_REPORT_TIMEOUT_SECONDS = 10.0
_MAX_EVENTS_PER_REPORT = 200


class LeaseLost(Exception):
    """The lease is over: the job was aborted, its deadline came, or it was leased to another worker."""


@dataclass(eq=False)
class JobRun:
    """One leased job, as its handler sees it."""

    job: jobs_pb2.Job
    fencing_token: int
    _reporter: Reporter
    stop_reason: int = common_pb2.END_REASON_UNSPECIFIED
    task: asyncio.Task[None] | None = None
    events: list[jobs_pb2.NewEvent] = field(default_factory=list)
    checkpoint: bytes = b""
    outcome: Outcome | None = None
    heartbeat_due: bool = False
    recorded: asyncio.Future[None] | None = None
    last_report: int = 0

    def text(self, channel: str, text: str) -> None:
        """Puts text out. Pieces that follow each other closely travel as one."""
        last = self.events[-1] if self.events else None
        if last is not None and last.HasField("text") and last.text.channel == channel and len(last.text.text) < 8192:
            last.text.text += text
        else:
            self.events.append(jobs_pb2.NewEvent(text=jobs_pb2.TextOutput(channel=channel, text=text)))
        self._reporter.wake(urgent=False)

    def note(self, type_: str, data: bytes) -> None:
        """Writes an event of the caller's own kind."""
        self.events.append(jobs_pb2.NewEvent(note=jobs_pb2.Note(type=type_, data=data)))
        self._reporter.wake(urgent=True)

    async def save(self, checkpoint: bytes) -> None:
        """Stores a checkpoint; returns when it and all earlier events are durable. Raises LeaseLost."""
        self.checkpoint = checkpoint
        await self.flush()

    async def flush(self) -> None:
        """Returns when everything said so far is durable. Raises LeaseLost."""
        if self.stop_reason:
            raise LeaseLost
        if self.recorded is None:
            self.recorded = asyncio.get_running_loop().create_future()
        self._reporter.wake(urgent=True)
        await asyncio.shield(self.recorded)

    @property
    def has_news(self) -> bool:
        return bool(
            self.events
            or self.checkpoint
            or self.outcome is not None
            or self.heartbeat_due
            or self.recorded is not None
        )


Handler = Callable[[JobRun], Awaitable[Outcome]]


def refuse(recorded: asyncio.Future[None] | None) -> None:
    if recorded is not None and not recorded.done():
        recorded.set_exception(LeaseLost())
        recorded.exception()  # marks it as seen: nobody may be waiting for it


_Batch = list[tuple[JobRun, tuple[jobs_pb2.JobReport, asyncio.Future[None] | None]]]


class Reporter:
    """Sends what the runs have to say, one call at a time so that each run's events stay in order."""

    def __init__(
        self,
        stub: jobs_pb2_grpc.JobsServiceAsyncStub,
        worker_id: str,
        runs: dict[tuple[str, int], JobRun],
        lose: Callable[[JobRun, int], None],
        next_claim: Callable[[int], jobs_pb2.NextClaim | None],
        adopt: Callable[[jobs_pb2.Lease], object],
    ) -> None:
        self._stub = stub
        self._worker_id = worker_id
        self._runs = runs
        self._lose = lose
        self._next_claim = next_claim
        self._adopt = adopt
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()

    def wake(self, *, urgent: bool) -> None:
        self._news.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            if not self._urgent.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._urgent.wait(), TEXT_GATHER_SECONDS)
            self._news.clear()
            self._urgent.clear()
            batch = [(run, self._take(run)) for run in self._runs.values() if run.has_news and not run.stop_reason]
            if batch:
                await self._deliver(batch)

    def _take(self, run: JobRun) -> tuple[jobs_pb2.JobReport, asyncio.Future[None] | None]:
        run.last_report += 1
        events, run.events = run.events[:_MAX_EVENTS_PER_REPORT], run.events[_MAX_EVENTS_PER_REPORT:]
        report = jobs_pb2.JobReport(
            job_id=run.job.id, fencing_token=run.fencing_token, events=events, report_number=run.last_report
        )
        run.heartbeat_due = False
        if run.events:  # the rest goes first; checkpoint and outcome must not overtake it
            self.wake(urgent=True)
            return report, None
        report.checkpoint, run.checkpoint = run.checkpoint, b""
        match run.outcome:
            case jobs_pb2.Success():
                report.success.CopyFrom(run.outcome)
            case jobs_pb2.Failure():
                report.failure.CopyFrom(run.outcome)
            case jobs_pb2.Release():
                report.release.CopyFrom(run.outcome)
        recorded, run.recorded = run.recorded, None
        return report, recorded

    async def _deliver(self, batch: _Batch) -> None:
        pause = 0.05
        next_claim = self._next_claim(sum(report.HasField("outcome") for _, (report, _) in batch))
        while True:
            request = jobs_pb2.ReportJobsRequest(
                worker_id=self._worker_id, reports=[report for _, (report, _) in batch], next_claim=next_claim
            )
            try:
                response = await call(self._stub.ReportJobs, request, timeout=_REPORT_TIMEOUT_SECONDS)
                break
            except ServiceError as error:
                if error.reason not in REPEATABLE:
                    await self._isolate(batch, error)
                    return
                logger.info("reports wait for jobs_svc: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
            for run, (_, recorded) in batch:
                if run.stop_reason:
                    refuse(recorded)
            batch = [item for item in batch if not item[0].stop_reason]
            if not batch:
                return
        for lease in response.leases:
            self._adopt(lease)
        for (run, (_, recorded)), result in zip(batch, response.results, strict=True):
            if result.disposition == jobs_pb2.ReportResult.DISPOSITION_ACCEPTED:
                if recorded is not None and not recorded.done():
                    recorded.set_result(None)
                continue
            refuse(recorded)
            self._lose(run, common_pb2.END_REASON_CANCELLED)

    async def _isolate(self, batch: _Batch, error: ServiceError) -> None:
        """One bad report must not hold up the others: sends each alone, and fails the job whose report is refused."""
        if len(batch) > 1:
            for item in batch:
                await self._deliver([item])
            return
        run, (report, recorded) = batch[0]
        logger.error("job %s: its report was refused: %s", run.job.id, error)
        if not report.HasField("failure"):
            run.last_report += 1
            failed = jobs_pb2.JobReport(
                job_id=run.job.id, fencing_token=run.fencing_token, report_number=run.last_report
            )
            failed.failure.reason = common_pb2.END_REASON_INTERNAL_ERROR
            failed.failure.message = f"the report was refused: {error.message}"
            await self._deliver([(run, (failed, None))])
        refuse(recorded)
        self._lose(run, common_pb2.END_REASON_INTERNAL_ERROR)
