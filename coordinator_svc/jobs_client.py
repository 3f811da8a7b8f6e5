"""What the coordinator asks of jobs_svc, with the patience to outlive its restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from svc_common.channel import call, resumed
from svc_common.endings import EndReason
from svc_common.ids import new_id

# Jobs read in one call. A tool's result and its call take up to some hundred KiB, and a message has its limit.
_PAGE = 20


class JobsClient:
    """`patience` is how many seconds each call is repeated while jobs_svc is away."""

    def __init__(self, stub: jobs_pb2_grpc.JobsServiceAsyncStub, patience: float) -> None:
        self._stub = stub
        self._patience = patience

    async def create(
        self,
        jobs: Sequence[jobs_pb2.NewJob],
        *,
        claim_for: str = "",
        max_unfinished: int = 0,
        max_unfinished_of_tenant: int = 0,
    ) -> Sequence[jobs_pb2.CreatedJob]:
        request = jobs_pb2.CreateJobsRequest(
            jobs=jobs,
            claim_for_worker_id=claim_for,
            claim_id=new_id() if claim_for else "",
            max_unfinished_roots=max_unfinished,
            max_unfinished_roots_of_tenant=max_unfinished_of_tenant,
        )
        return (await call(self._stub.CreateJobs, request, patience=self._patience)).jobs

    async def get(self, job_id: str) -> jobs_pb2.Job:
        response = await call(self._stub.GetJob, jobs_pb2.GetJobRequest(job_id=job_id), patience=self._patience)
        return response.job

    async def get_many(self, job_ids: Sequence[str]) -> dict[str, jobs_pb2.Job]:
        """Jobs by id, with their results, in no order; those that do not exist are left out."""
        found: dict[str, jobs_pb2.Job] = {}
        for start in range(0, len(job_ids), _PAGE):
            request = jobs_pb2.ListJobsRequest(job_ids=job_ids[start : start + _PAGE], page_size=_PAGE)
            response = await call(self._stub.ListJobs, request, patience=self._patience)
            found |= {job.id: job for job in response.jobs}
        return found

    async def tree(self, root_id: str) -> list[jobs_pb2.Job]:
        """All jobs of a request but the root itself, oldest first, with their results."""
        jobs: list[jobs_pb2.Job] = []
        request = jobs_pb2.ListJobsRequest(root_id=root_id, page_size=_PAGE)
        while True:
            response = await call(self._stub.ListJobs, request, patience=self._patience)
            jobs.extend(job for job in response.jobs if job.id != root_id)
            request.page_token = response.next_page_token
            if not request.page_token:
                return jobs[::-1]

    async def list_jobs(self, request: jobs_pb2.ListJobsRequest) -> jobs_pb2.ListJobsResponse:
        return await call(self._stub.ListJobs, request, patience=self._patience)

    async def abort(self, job_ids: Sequence[str], reason: EndReason, message: str) -> None:
        request = jobs_pb2.AbortJobsRequest(
            job_ids=job_ids, reason=common_pb2.EndReason.ValueType(reason), message=message
        )
        await call(self._stub.AbortJobs, request, patience=self._patience)

    async def follow(self, root_id: str, after_sequence: int) -> AsyncIterator[Sequence[jobs_pb2.Event]]:
        """The events of a root job from a sequence to the terminal one, each once, as many together as have come.

        Outlives connections; raises the service's error when it has been away for longer than the patience allows.
        """
        watch = resumed(
            lambda after: self._stub.WatchEvents(jobs_pb2.WatchEventsRequest(root_id=root_id, after_sequence=after)),
            lambda response: int(response.events[-1].sequence),
            after_sequence,
            patience=self._patience,
        )
        async for response in watch:
            yield response.events


def new_job(
    job_id: str,
    kind: str,
    payload: bytes,
    deadline: int,
    *,
    parent_id: str = "",
    tenant: str = "",
    priority: int = 0,
    traceparent: str = "",
    labels: Mapping[str, str] | None = None,
) -> jobs_pb2.NewJob:
    """A job to create; `deadline` in epoch microseconds."""
    job = jobs_pb2.NewJob(
        id=job_id,
        parent_id=parent_id,
        tenant=tenant,
        kind=kind,
        payload=payload,
        priority=priority,
        traceparent=traceparent,
        labels=labels,
    )
    job.deadline.FromMicroseconds(deadline)
    return job
