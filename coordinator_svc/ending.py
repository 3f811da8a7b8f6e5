"""Fetching what a request's result is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2

from coordinator_svc.answers import Answer
from coordinator_svc.budgets import BudgetsClient
from coordinator_svc.checkpoint import Checkpoint
from coordinator_svc.digest import Digest
from coordinator_svc.jobs_client import JobsClient
from coordinator_svc.requests import RequestSpec
from coordinator_svc.results import ToolJob, assemble
from svc_common.endings import EndReason, JobState
from svc_common.times import from_timestamp


async def tool_jobs(budgets: BudgetsClient, jobs: Sequence[jobs_pb2.Job], digest: Digest) -> list[ToolJob]:
    """Jobs with their texts, and with their budgets where their results do not tell what they cost."""

    async def one(job: jobs_pb2.Job) -> ToolJob:
        # A call that was cut short is charged in full, and only the budget knows for how many tokens.
        is_whole = JobState(job.state) is JobState.SUCCEEDED and not job.is_partial
        is_told = job.attempt == 0 or (is_whole and job.attempt == 1)
        return ToolJob.of(job, digest.text(job.id), None if is_told else await budgets.get(job.id))

    return await asyncio.gather(*map(one, jobs))


async def result_of(
    jobs_client: JobsClient, budgets: BudgetsClient, root: jobs_pb2.Job
) -> coordinator_pb2.RequestResult:
    """The result of a request that has ended: the one its coordinator left, else one made of what is there."""
    if root.result:
        return coordinator_pb2.RequestResult.FromString(root.result)
    jobs, budget, digest = await asyncio.gather(
        jobs_client.tree(root.id), budgets.get(root.id), _whole_log(jobs_client, root.id)
    )
    checkpoint = Checkpoint.from_bytes(root.checkpoint)
    answer = Answer(
        text=digest.answer,
        reason=EndReason(root.end_reason),
        model_ids=checkpoint.model_ids,
        rounds=checkpoint.planned_rounds,
        snapshot_id=checkpoint.snapshot_id,
        template_hash=checkpoint.template_hash,
    )
    spec = RequestSpec.from_json(root.payload)
    found = await tool_jobs(budgets, jobs, digest)
    return assemble(spec, root, found, budget, answer, end=from_timestamp(root.end_time))


async def _whole_log(jobs_client: JobsClient, root_id: str) -> Digest:
    digest = Digest(root_id)
    async for events in jobs_client.follow(root_id, 0):
        for event in events:
            digest.take(event)
    return digest
