"""The jobs of one request: started as its rounds ask for them, at most so many at a time, and awaited by the event log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2

from coordinator_svc.budgets import BudgetsClient
from coordinator_svc.digest import Digest
from coordinator_svc.jobs_client import JobsClient, new_job
from coordinator_svc.requests import RequestSpec
from svc_common import telemetry
from svc_common.channel import AWAY
from svc_common.endings import EndReason, JobState
from svc_common.errors import ErrorReason, ServiceError
from svc_common.tasks import supervised
from svc_common.times import MICROS, now

# How long a job may take to end after its deadline, before it is aborted from here.
GRACE_MICROS = 150_000
# Errors that another try with fewer calls would meet, too.
_OF_ALL = AWAY | {ErrorReason.DEADLINE_EXCEEDED, ErrorReason.JOB_ENDED}

Call = tuple[str, tool_pb2.ToolCall]
"""A tool call with the id of its job."""


class Fanout:
    """Use as an async context manager, for as long as jobs may run: it watches the log from its beginning."""

    def __init__(self, spec: RequestSpec, jobs_client: JobsClient, budgets: BudgetsClient) -> None:
        self._spec = spec
        self._jobs_client = jobs_client
        self._budgets = budgets
        self._news = asyncio.Event()
        self.digest = Digest(spec.id)

    async def __aenter__(self) -> Fanout:
        # However long jobs_svc is away: the round's own deadline says when there is nothing more to wait for.
        self._watching = asyncio.create_task(
            supervised("the jobs' watch", self._watch, until=lambda: self._spec.id in self.digest.ended)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()

    async def run(self, calls: Sequence[Call], due: int) -> dict[str, jobs_pb2.Job | ServiceError]:
        """Runs calls and returns each one's job as it stands in the end, or why there is none.

        Jobs that have not ended by `due` (epoch microseconds) are aborted; the others keep what they found. Returns soon after.
        """
        ended = self.digest.ended
        waiting = list(calls)
        running: set[str] = set()
        outcomes: dict[str, jobs_pb2.Job | ServiceError] = {}
        while waiting and now() < due:
            free = self._spec.max_parallel_jobs - len(running)
            batch, waiting = waiting[:free], waiting[free:]
            refused = await self._start(batch, due)
            outcomes |= refused
            running.update({job_id for job_id, _ in batch} - set(refused))
            if waiting and running:
                await self._until(due, lambda: running & ended)
            running.difference_update(ended)
        await self._until(due + GRACE_MICROS, lambda: running <= ended)
        too_late = ServiceError(ErrorReason.DEADLINE_EXCEEDED, "there was no time left to begin it")
        outcomes |= {job_id: too_late for job_id, _ in waiting}
        started = [job_id for job_id, _ in calls if job_id not in outcomes]
        try:
            if late := running - ended:
                words = "the request needs the rest of its time for the answer"
                await self._jobs_client.abort(sorted(late), EndReason.TIMEOUT, words)
            return outcomes | await self._jobs_client.get_many(started)
        except ServiceError as error:
            return outcomes | dict.fromkeys(started, error)

    async def settle(self) -> list[jobs_pb2.Job]:
        """All jobs of the request, oldest first; those that still run are ended before."""
        jobs = await self._jobs_client.tree(self._spec.id)
        running = [job.id for job in jobs if not JobState(job.state).is_terminal]
        if not running:
            return jobs
        await self._jobs_client.abort(running, EndReason.TIMEOUT, "the request has its answer")
        return list(({job.id: job for job in jobs} | await self._jobs_client.get_many(running)).values())

    async def _start(self, calls: Sequence[Call], due: int) -> dict[str, ServiceError]:
        """Starts jobs, in one call if it can be; returns those that could not be started, and why."""
        try:
            await self._budgets.open_jobs(self._spec, [call for _, call in calls])
            await self._jobs_client.create([self._new_job(job_id, call, due) for job_id, call in calls])
        except ServiceError as error:
            if len(calls) == 1 or error.reason in _OF_ALL:
                return {job_id: error for job_id, _ in calls}
            each = [await self._start([call], due) for call in calls]
            return {job_id: why for refused in each for job_id, why in refused.items()}
        return {}

    def _new_job(self, job_id: str, call: tool_pb2.ToolCall, due: int) -> jobs_pb2.NewJob:
        return new_job(
            job_id,
            call.tool,
            call.SerializeToString(deterministic=True),
            due,
            parent_id=self._spec.id,
            priority=self._spec.priority,
            traceparent=telemetry.current_traceparent(),
            labels={"workspace": self._spec.workspace},
        )

    async def _until(self, time: int, is_so: Callable[[], object]) -> None:
        """Waits until the log says so, or until the time."""
        try:
            async with asyncio.timeout((time - now()) / MICROS):
                while not is_so():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return

    async def _watch(self) -> None:
        async for events in self._jobs_client.follow(self._spec.id, self.digest.last_sequence):
            for event in events:
                self.digest.take(event)
            self._news.set()
