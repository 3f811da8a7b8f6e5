"""What the coordinator asks of jobs_svc, with the patience to outlive its restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from svc_common.channel import call, resumed
from svc_common.endings import EndReason


class JobsClient:
    """`patience` is how many seconds each call is repeated while jobs_svc is away."""

    def __init__(self, stub: jobs_pb2_grpc.JobsServiceAsyncStub, patience: float) -> None:
        self.stub = stub
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
            max_unfinished_roots=max_unfinished,
            max_unfinished_roots_of_tenant=max_unfinished_of_tenant,
        )
        return (await call(self.stub.CreateJobs, request, patience=self._patience)).jobs

    async def get(self, job_id: str) -> jobs_pb2.Job:
        response = await call(self.stub.GetJob, jobs_pb2.GetJobRequest(job_id=job_id), patience=self._patience)
        return response.job

    async def tree(self, root_id: str) -> list[jobs_pb2.Job]:
        """All jobs of a request but the root itself, oldest first, with their results."""
        jobs: list[jobs_pb2.Job] = []
        token = ""
        while True:
            request = jobs_pb2.ListJobsRequest(root_id=root_id, page_size=200, page_token=token)
            response = await call(self.stub.ListJobs, request, patience=self._patience)
            jobs.extend(job for job in response.jobs if job.id != root_id)
            token = response.next_page_token
            if not token:
                return jobs[::-1]

    async def abort(self, job_ids: Sequence[str], reason: EndReason, message: str) -> None:
        request = jobs_pb2.AbortJobsRequest(
            job_ids=job_ids, reason=common_pb2.EndReason.ValueType(reason), message=message
        )
        await call(self.stub.AbortJobs, request, patience=self._patience)

    async def follow(self, root_id: str, after_sequence: int) -> AsyncIterator[jobs_pb2.Event]:
        """The events of a root job from a sequence to the terminal one, each once, whatever happens to the connection.

        Raises the service's error when it has been away for longer than the patience allows.
        """
        watch = resumed(
            lambda after: self.stub.WatchEvents(jobs_pb2.WatchEventsRequest(root_id=root_id, after_sequence=after)),
            lambda response: int(response.events[-1].sequence),
            after_sequence,
            patience=self._patience,
        )
        async for response in watch:
            for event in response.events:
                yield event


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
