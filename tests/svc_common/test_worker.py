"""The pulling side of the queue, over a real jobs_svc."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

import jobs_svc.server
from jobs_svc.settings import JobsSettings
from svc_common.channel import call, open_channel
from svc_common.errors import ErrorReason, ServiceError
from svc_common.job_run import Handler, JobRun, LeaseLost, Outcome
from svc_common.settings import CommonSettings
from svc_common.times import MICROS, now
from svc_common.worker import Worker

DONE = jobs_pb2.Success(result=b"done")


class Queue:
    """A jobs_svc that can be stopped and started again on the same port and file."""

    def __init__(self, path: Path) -> None:
        self._url = f"sqlite:///{path}/jobs.sqlite"
        self._workers: list[Worker] = []
        self.service: Any = None

    async def start(self, port: int = 0) -> None:
        self.service = await jobs_svc.server.start(
            JobsSettings(listen=f"127.0.0.1:{port}", database_url=self._url, drain_seconds=0.2)
        )
        if not port:
            self.channel = open_channel(f"127.0.0.1:{self.service.port}", CommonSettings())
            self.stub = jobs_pb2_grpc.JobsServiceStub(self.channel)

    async def create(self, *ids: str, seconds: float = 60) -> None:
        jobs = [jobs_pb2.NewJob(id=id_, tenant="t", kind="work") for id_ in ids]
        for job in jobs:
            job.deadline.FromMicroseconds(now() + int(seconds * MICROS))
        await call(self.stub.CreateJobs, jobs_pb2.CreateJobsRequest(jobs=jobs), patience=10)

    async def ended(self, id_: str) -> jobs_pb2.Job:
        """Waits for the end of a root job."""
        async for _ in self.stub.WatchEvents(jobs_pb2.WatchEventsRequest(root_id=id_), wait_for_ready=True):
            pass
        return (await call(self.stub.GetJob, jobs_pb2.GetJobRequest(job_id=id_))).job

    async def events(self, id_: str) -> list[jobs_pb2.Event]:
        stream = self.stub.WatchEvents(jobs_pb2.WatchEventsRequest(root_id=id_))
        return [event async for response in stream for event in response.events]

    def work(self, handler: Handler, slots: int = 4) -> Worker:
        worker = Worker(self.stub, worker_id=f"w{len(self._workers)}", kinds=["work"], slots=slots, handler=handler)
        self._workers.append(worker)
        worker.start()
        return worker

    async def stop(self) -> None:
        for worker in self._workers:
            await worker.stop(0)
        await self.channel.close(None)
        await self.service.stop()


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[Queue]:
    opened = Queue(tmp_path)
    await opened.start()
    yield opened
    await opened.stop()


async def test_what_a_handler_says_is_logged_in_order_and_text_travels_together(queue: Queue) -> None:
    async def handler(run: JobRun) -> Outcome:
        for word in ("a", "b", "c"):
            run.text("answer", word)
        run.note("plan", b"1")
        run.text("answer", "d")
        await run.save(b"checkpoint")
        return DONE

    queue.work(handler)
    await queue.create("job")
    job = await queue.ended("job")
    assert (job.result, job.checkpoint) == (b"done", b"checkpoint")
    bodies = [
        event.text.text or event.note.type
        for event in await queue.events("job")
        if event.WhichOneof("body") != "state_change"
    ]
    assert bodies == ["abc", "plan", "d"]


async def test_a_cancel_reaches_the_handler_and_its_late_words_are_refused(queue: Queue) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(run: JobRun) -> Outcome:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(LeaseLost):
                await run.save(b"late")
            cancelled.set()
        return DONE

    queue.work(handler)
    await queue.create("job")
    await started.wait()
    await call(queue.stub.AbortJobs, jobs_pb2.AbortJobsRequest(job_ids=["job"]))
    await asyncio.wait_for(cancelled.wait(), 5)
    job = await queue.ended("job")
    assert (job.state, job.end_reason) == (common_pb2.JOB_STATE_ABORTED, common_pb2.END_REASON_CANCELLED)
    assert not job.checkpoint


async def test_a_handler_ends_at_its_deadline_though_the_queue_is_away(queue: Queue) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(run: JobRun) -> Outcome:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return DONE

    queue.work(handler)
    await queue.create("job", seconds=0.5)
    await started.wait()
    port = queue.service.port
    await queue.service.stop()
    await asyncio.wait_for(ended.wait(), 5)
    await queue.start(port)
    assert (await queue.ended("job")).end_reason == common_pb2.END_REASON_TIMEOUT


async def test_work_that_has_no_time_left_for_a_call_ended_for_want_of_time(queue: Queue) -> None:
    async def handler(run: JobRun) -> Outcome:
        raise ServiceError(ErrorReason.DEADLINE_EXCEEDED, "no time for a further call")

    queue.work(handler)
    await queue.create("job", seconds=0.9)
    assert (await queue.ended("job")).end_reason == common_pb2.END_REASON_TIMEOUT


async def test_one_handler_that_breaks_harms_no_other(queue: Queue) -> None:
    async def handler(run: JobRun) -> Outcome:
        if run.job.id == "bad":
            raise RuntimeError("secret")
        return DONE

    queue.work(handler)
    await queue.create("bad", "good", seconds=20)
    assert (await queue.ended("good")).state == common_pb2.JOB_STATE_SUCCEEDED
    bad = await queue.ended("bad")
    assert bad.state == common_pb2.JOB_STATE_FAILED
    assert "secret" not in str(bad)
    assert len(bad.attempt_errors) == 3


async def test_a_stopping_worker_gives_its_leases_back_without_an_attempt(queue: Queue) -> None:
    started = asyncio.Event()

    async def stuck(run: JobRun) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        return DONE

    async def handler(run: JobRun) -> Outcome:
        return DONE

    first = queue.work(stuck)
    await queue.create("job")
    await started.wait()
    await first.stop(0)
    queue.work(handler)
    job = await queue.ended("job")
    assert (job.state, job.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, 1)


async def test_work_outlives_a_restart_of_the_queue_and_nothing_is_said_twice(queue: Queue) -> None:
    go = asyncio.Event()

    async def handler(run: JobRun) -> Outcome:
        run.note("before", b"")
        await run.flush()
        started.set()
        await go.wait()
        run.note("during", b"")
        return DONE

    started = asyncio.Event()
    queue.work(handler)
    await queue.create("job")
    await started.wait()
    port = queue.service.port
    await queue.service.stop()
    go.set()
    await queue.start(port)
    job = await queue.ended("job")
    assert job.state == common_pb2.JOB_STATE_SUCCEEDED
    assert job.attempt == 1
    notes = [event.note.type for event in await queue.events("job") if event.HasField("note")]
    assert notes == ["before", "during"]


async def test_a_report_that_is_too_big_fails_its_job_and_no_other(queue: Queue) -> None:
    async def handler(run: JobRun) -> Outcome:
        return jobs_pb2.Success(result=b"x" * 3_000_000 if run.job.id == "big" else b"done")

    queue.work(handler)
    await queue.create("big", "small")
    assert (await queue.ended("small")).state == common_pb2.JOB_STATE_SUCCEEDED
    assert (await queue.ended("big")).state == common_pb2.JOB_STATE_FAILED


async def test_a_report_that_is_refused_ends_its_handler_too(queue: Queue) -> None:
    cancelled = asyncio.Event()

    async def handler(run: JobRun) -> Outcome:
        run.note("too big", b"x" * 3_000_000)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return DONE

    queue.work(handler)
    await queue.create("job")
    job = await queue.ended("job")
    assert (job.state, job.end_reason) == (common_pb2.JOB_STATE_FAILED, common_pb2.END_REASON_INTERNAL_ERROR)
    await asyncio.wait_for(cancelled.wait(), 5)


class SlowQueue(jobs_pb2_grpc.JobsServiceServicer):
    """Answers a report when it is told to: that its job has ended. Has no jobs to give."""

    def __init__(self) -> None:
        self.reported, self.answer, self.claimed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def ClaimJobs(self, request: jobs_pb2.ClaimJobsRequest, context: Any) -> jobs_pb2.ClaimJobsResponse:
        self.claimed.set()
        await asyncio.Event().wait()
        return jobs_pb2.ClaimJobsResponse()

    async def ReportJobs(self, request: jobs_pb2.ReportJobsRequest, context: Any) -> jobs_pb2.ReportJobsResponse:
        self.reported.set()
        await self.answer.wait()
        ended = jobs_pb2.ReportResult(disposition=jobs_pb2.ReportResult.DISPOSITION_JOB_ENDED)
        return jobs_pb2.ReportJobsResponse(results=[ended] * len(request.reports))


async def test_a_handler_that_ends_while_its_job_turns_out_to_be_over_frees_its_place() -> None:
    slow, server = SlowQueue(), grpc.aio.server()  # type: ignore[abstract]  # the rest stays unimplemented
    jobs_pb2_grpc.add_JobsServiceServicer_to_server(slow, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    returned = asyncio.Event()

    async def handler(run: JobRun) -> Outcome:
        run.note("said", b"")
        await slow.reported.wait()
        returned.set()
        return DONE

    channel = open_channel(f"127.0.0.1:{port}", CommonSettings())
    worker = Worker(jobs_pb2_grpc.JobsServiceStub(channel), worker_id="w", kinds=["k"], slots=1, handler=handler)
    worker.start()
    job = jobs_pb2.Job(id="job", kind="k")
    job.deadline.FromMicroseconds(now() + 60 * MICROS)
    worker.adopt(jobs_pb2.Lease(job=job, fencing_token=1))
    await returned.wait()
    slow.answer.set()
    await asyncio.wait_for(slow.claimed.wait(), 5)  # it claims for a free place only
    await worker.stop(0)
    await channel.close(None)
    await server.stop(None)


async def test_the_next_jobs_come_with_the_answer_to_the_reports_of_the_last_ones(queue: Queue) -> None:
    async def handler(run: JobRun) -> Outcome:
        return DONE

    ids = [f"job{number}" for number in range(20)]
    await queue.create(*ids)
    claims = 0
    claim_jobs = queue.stub.ClaimJobs

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal claims
        claims += 1
        return claim_jobs(*arguments, **options)

    queue.stub.ClaimJobs = counted  # type: ignore[assignment]
    queue.work(handler, slots=2)
    assert {(await queue.ended(id_)).state for id_ in ids} == {common_pb2.JOB_STATE_SUCCEEDED}
    assert claims < 10


async def test_a_claim_whose_reply_is_lost_brings_its_lease_the_next_time(queue: Queue) -> None:
    async def handler(run: JobRun) -> Outcome:
        return DONE

    claim_jobs = queue.stub.ClaimJobs
    lost = False

    async def losing(request: jobs_pb2.ClaimJobsRequest, **options: Any) -> jobs_pb2.ClaimJobsResponse:
        nonlocal lost
        response: jobs_pb2.ClaimJobsResponse = await claim_jobs(request, **options)
        if response.leases and not lost:
            lost = True
            raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "the connection was lost")
        return response

    queue.stub.ClaimJobs = losing  # type: ignore[assignment]
    queue.work(handler)
    await queue.create("job")
    job = await queue.ended("job")
    assert lost
    assert (job.state, job.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, 1)
