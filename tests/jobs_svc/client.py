"""A client of jobs_svc that says in one line what a test means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from jobs_svc.server import JobsService, start
from jobs_svc.settings import JobsSettings
from svc_common.channel import call, open_channel, stream
from svc_common.ids import new_id
from svc_common.settings import CommonSettings
from svc_common.times import MICROS, duration_from_seconds, now, to_timestamp

ACCEPTED = jobs_pb2.ReportResult.DISPOSITION_ACCEPTED
STALE = jobs_pb2.ReportResult.DISPOSITION_STALE
JOB_ENDED = jobs_pb2.ReportResult.DISPOSITION_JOB_ENDED
NOT_FOUND = jobs_pb2.ReportResult.DISPOSITION_NOT_FOUND

QUEUED = common_pb2.JOB_STATE_QUEUED
RUNNING = common_pb2.JOB_STATE_RUNNING
SUCCEEDED = common_pb2.JOB_STATE_SUCCEEDED
FAILED = common_pb2.JOB_STATE_FAILED
ABORTED = common_pb2.JOB_STATE_ABORTED

TIMEOUT = common_pb2.END_REASON_TIMEOUT
CANCELLED = common_pb2.END_REASON_CANCELLED
INTERNAL_ERROR = common_pb2.END_REASON_INTERNAL_ERROR
LLM_ERROR = common_pb2.END_REASON_LLM_ERROR


def new_job(
    id_: str = "", *, kind: str = "work", seconds: float = 60, delay: float = 0, **fields: Any
) -> jobs_pb2.NewJob:
    """A root of tenant "a" unless the fields say otherwise."""
    if not fields.get("parent_id"):
        fields.setdefault("tenant", "a")
    job = jobs_pb2.NewJob(id=id_ or new_id(), kind=kind, deadline=to_timestamp(now() + int(seconds * MICROS)), **fields)
    if delay:
        job.not_before_time.CopyFrom(to_timestamp(now() + int(delay * MICROS)) or job.not_before_time)
    return job


def text(piece: str, channel: str = "answer") -> jobs_pb2.NewEvent:
    return jobs_pb2.NewEvent(text=jobs_pb2.TextOutput(channel=channel, text=piece))


def note(data: bytes, type_: str = "plan") -> jobs_pb2.NewEvent:
    return jobs_pb2.NewEvent(note=jobs_pb2.Note(type=type_, data=data))


def about(event: jobs_pb2.Event) -> tuple[Any, ...]:
    """What an event says, for comparison."""
    match event.WhichOneof("body"):
        case "state_change":
            return (event.job_id, event.state_change.state, event.state_change.reason)
        case "text":
            return (event.job_id, event.text.text)
    return (event.job_id, event.note.data)


class Client:
    """Talks to one jobs_svc at a port of this machine."""

    def __init__(self, port: int, patience: float = 0) -> None:
        self.channel = open_channel(f"127.0.0.1:{port}", CommonSettings())
        self.stub: Any = jobs_pb2_grpc.JobsServiceStub(self.channel)
        self._patience = patience

    async def close(self) -> None:
        await self.channel.close(None)

    async def call(self, method: str, request: Any, timeout: float = 30) -> Any:
        return await call(getattr(self.stub, method), request, timeout=timeout, patience=self._patience)

    async def create(self, *jobs: jobs_pb2.NewJob, **fields: Any) -> list[jobs_pb2.CreatedJob]:
        return list((await self.call("CreateJobs", jobs_pb2.CreateJobsRequest(jobs=jobs, **fields))).jobs)

    async def claim(
        self,
        worker: str = "w",
        *,
        kinds: Sequence[str] = ("work",),
        jobs: int = 1,
        wait: float = 0,
        claim_id: str = "",
    ) -> list[jobs_pb2.Lease]:
        request = jobs_pb2.ClaimJobsRequest(
            worker_id=worker, kinds=kinds, max_jobs=jobs, max_wait=duration_from_seconds(wait), claim_id=claim_id
        )
        return list((await self.call("ClaimJobs", request)).leases)

    async def claim_one(
        self, worker: str = "w", *, kinds: Sequence[str] = ("work",), wait: float = 10
    ) -> jobs_pb2.Lease:
        [lease] = await self.claim(worker, kinds=kinds, wait=wait)
        return lease

    async def report(self, lease: jobs_pb2.Lease, worker: str = "w", **fields: Any) -> int:
        """The disposition of one report about a lease."""
        report = jobs_pb2.JobReport(job_id=lease.job.id, fencing_token=lease.fencing_token, **fields)
        response = await self.call("ReportJobs", jobs_pb2.ReportJobsRequest(worker_id=worker, reports=[report]))
        return int(response.results[0].disposition)

    async def succeed(self, lease: jobs_pb2.Lease, result: bytes = b"done", **fields: Any) -> int:
        return await self.report(lease, success=jobs_pb2.Success(result=result), **fields)

    async def fail(self, lease: jobs_pb2.Lease, reason: Any = LLM_ERROR, *, retryable: bool = True) -> int:
        failure = jobs_pb2.Failure(reason=reason, message="no luck", retryable=retryable)
        return await self.report(lease, failure=failure)

    async def release(self, lease: jobs_pb2.Lease) -> int:
        return await self.report(lease, release=jobs_pb2.Release())

    async def abort(self, *ids: str, **fields: Any) -> int:
        return int((await self.call("AbortJobs", jobs_pb2.AbortJobsRequest(job_ids=ids, **fields))).aborted_count)

    async def get(self, id_: str) -> Any:
        return (await self.call("GetJob", jobs_pb2.GetJobRequest(job_id=id_))).job

    async def list_jobs(self, **fields: Any) -> Any:
        return await self.call("ListJobs", jobs_pb2.ListJobsRequest(**fields))

    async def log(self, root_id: str, after: int = 0, *, until: int = 0) -> list[jobs_pb2.Event]:
        """The log from a sequence to its end, or to the sequence `until`."""
        events: list[jobs_pb2.Event] = []
        async with asyncio.timeout(30), stream(self.watch(root_id, after)) as responses:
            async for response in responses:
                events.extend(response.events)
                if until and events[-1].sequence >= until:
                    break
        return events

    def watch(self, root_id: str, after: int = 0) -> Any:
        return self.stub.WatchEvents(jobs_pb2.WatchEventsRequest(root_id=root_id, after_sequence=after))

    def watch_stops(self, worker: str = "w") -> Any:
        return self.stub.WatchStops(jobs_pb2.WatchStopsRequest(worker_id=worker))


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what happens in the background."""
    for _ in range(600):
        if await is_so():
            return
        await asyncio.sleep(0.05)
    raise TimeoutError


class Services:
    """Starts services and clients for a test, and ends them with it."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Services:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, **settings: Any) -> JobsService:
        settings = {"listen": "127.0.0.1:0", "drain_seconds": 0.2, "retry_delay_seconds": 0.01, **settings}
        service = await start(JobsSettings(database_url=self.database_url, **settings))
        self._stack.push_async_callback(service.stop)
        return service

    def client(self, service: JobsService, **options: Any) -> Client:
        client = Client(service.port, **options)
        self._stack.push_async_callback(client.close)
        return client
