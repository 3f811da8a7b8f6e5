"""The jobs of one request: started as their round asks for them, at most so many at a time, and awaited by the event log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2

from coordinator_svc.budgets import BudgetsClient
from coordinator_svc.jobs_client import JobsClient, new_job
from coordinator_svc.requests import RequestSpec
from svc_common import telemetry
from svc_common.endings import EndReason, JobState
from svc_common.times import MICROS, now

# How much of what a job put out is kept here, for the case that it must be cut short.
_PARTIAL_TEXT_CHARACTERS = 16_000
# How long a job may take to end after its deadline, before it is aborted from here.
_GRACE_SECONDS = 0.15


@dataclass
class Fanout:
    """Jobs of one request. `watch` must run as a task for as long as jobs are awaited."""

    spec: RequestSpec
    jobs_client: JobsClient
    budgets: BudgetsClient
    _ended: dict[str, asyncio.Event] = field(default_factory=dict)
    _partial_text: dict[str, str] = field(default_factory=dict)

    async def watch(self, after_sequence: int) -> None:
        """Takes note of ends and partial texts as they are logged."""
        async for event in self.jobs_client.follow(self.spec.id, after_sequence):
            if event.job_id == self.spec.id:
                continue
            match event.WhichOneof("body"):
                case "state_change" if JobState(event.state_change.state).is_terminal:
                    self._end_of(event.job_id).set()
                case "text":
                    text = self._partial_text.get(event.job_id, "") + event.text.text
                    self._partial_text[event.job_id] = text[-_PARTIAL_TEXT_CHARACTERS:]

    async def run(
        self, calls: Sequence[tuple[str, tool_pb2.ToolCall]], deadline: int, watching: asyncio.Task[None]
    ) -> dict[str, jobs_pb2.Job]:
        """Runs calls, given with their job ids, and returns their jobs as they stand when all have ended or the deadline has come.

        Raises what broke the watch, if anything did.
        """
        places = asyncio.Semaphore(self.spec.max_parallel_jobs)
        # Those that may start at once do so in one call; each of the others when a place comes free.
        first, rest = calls[: self.spec.max_parallel_jobs], calls[self.spec.max_parallel_jobs :]
        started = await self._start(first, deadline)

        async def run_one(job_id: str, call_: tool_pb2.ToolCall) -> jobs_pb2.Job:
            async with places:
                job = started.get(job_id) or (await self._start([(job_id, call_)], deadline))[job_id]
                if not JobState(job.state).is_terminal:
                    await self._wait_for_end(job_id, deadline, watching)
                    job = await self.jobs_client.get(job_id)
                return job

        async with asyncio.TaskGroup() as group:
            tasks = {job_id: group.create_task(run_one(job_id, call_)) for job_id, call_ in (*first, *rest)}
        return {job_id: task.result() for job_id, task in tasks.items()}

    def partial_text(self, job_id: str) -> str:
        """The end of what a job put out before it was cut short."""
        return self._partial_text.get(job_id, "")

    async def _start(self, calls: Sequence[tuple[str, tool_pb2.ToolCall]], deadline: int) -> dict[str, jobs_pb2.Job]:
        await self.budgets.open_jobs(self.spec, [call_ for _, call_ in calls])
        created = await self.jobs_client.create(
            [
                new_job(
                    job_id,
                    call_.tool,
                    call_.SerializeToString(deterministic=True),
                    deadline,
                    parent_id=self.spec.id,
                    priority=self.spec.priority,
                    traceparent=telemetry.current_traceparent(),
                    labels={"workspace": self.spec.workspace},
                )
                for job_id, call_ in calls
            ]
        )
        return {item.job.id: item.job for item in created}

    async def _wait_for_end(self, job_id: str, deadline: int, watching: asyncio.Task[None]) -> None:
        ended = asyncio.create_task(self._end_of(job_id).wait())
        left = max(0.0, (deadline - now()) / MICROS) + _GRACE_SECONDS
        try:
            await asyncio.wait({ended, watching}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if self._end_of(job_id).is_set():
            return
        if watching.done():
            watching.result()  # raises what broke it; a watch that simply ended means that the request has
            return
        await self.jobs_client.abort(
            [job_id], EndReason.TIMEOUT, "the request needs the rest of its time for the answer"
        )

    def _end_of(self, job_id: str) -> asyncio.Event:
        return self._ended.setdefault(job_id, asyncio.Event())
