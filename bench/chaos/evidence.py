"""What a chaos run leaves behind, gathered from where it is kept: event logs, jobs, budgets, the endpoint's invoice, logs."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dbp.budget.v1 import budget_pb2
from dbp.jobs.v1 import jobs_pb2

from bench.chaos.callers import Asked, Seen, tree
from dbp_client import AsyncClient
from local_bedrock.invoice import InvoiceRecord, fetch_invoice
from svc_common.channel import call, stream
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS

_STOPPED = re.compile(r"^(\S+ \S+) \w+ INFO svc_common\.worker: job (\S+): stopped, its lease is over$")


@dataclass(frozen=True)
class Trail:
    """One request's. `jobs` has the root too; `log` is the queue's own, `replay` the front's, read anew after the end. `stopped`
    tells of jobs whose work was ended from outside when it was over, in epoch microseconds."""

    asked: Asked
    root: jobs_pb2.Job
    jobs: Mapping[str, jobs_pb2.Job]
    log: Sequence[jobs_pb2.Event]
    replay: Seen
    budget: budget_pb2.Budget | None
    calls: Sequence[InvoiceRecord]
    stopped: Mapping[str, int]


async def gather_trails(
    client: AsyncClient, asked: Sequence[Asked], bedrock_url: str, logs: Sequence[Path]
) -> tuple[list[Trail], list[Asked]]:
    """The trails of all requests that were accepted, and the requests of which there is none."""
    invoice = await asyncio.to_thread(fetch_invoice, bedrock_url, 30.0)
    calls: defaultdict[str, list[InvoiceRecord]] = defaultdict(list)
    for record in invoice:
        calls[record.metadata.get("request_id", "")].append(record)
    stopped = {job_id: time for log in logs for job_id, time in read_stopped(log)}
    trails, unknown = [], []
    for one in asked:
        root = await find(client, one.request_id)
        if root is None:
            unknown.append(one)
            continue
        jobs = {job.id: job for job in await tree(client, root.id)}
        replay = Seen()
        async for event in client.watch(root.id):
            replay.take(event)
        trails.append(
            Trail(
                asked=one,
                root=root,
                jobs=jobs,
                log=await read_log(client, root.id),
                replay=replay,
                budget=await find_budget(client, root.id),
                calls=calls.pop(root.id, []),
                stopped={id_: stopped[id_] for id_ in jobs if id_ in stopped},
            )
        )
    return trails, unknown


async def find(client: AsyncClient, job_id: str) -> jobs_pb2.Job | None:
    try:
        return (await call(client.jobs.GetJob, jobs_pb2.GetJobRequest(job_id=job_id), patience=10)).job
    except ServiceError as error:
        if error.reason is not ErrorReason.JOB_NOT_FOUND:
            raise
        return None


async def find_budget(client: AsyncClient, budget_id: str) -> budget_pb2.Budget | None:
    try:
        request = budget_pb2.GetBudgetRequest(budget_id=budget_id)
        return (await call(client.budget.GetBudget, request, patience=10)).budget
    except ServiceError as error:
        if error.reason is not ErrorReason.BUDGET_NOT_FOUND:
            raise
        return None


async def read_log(client: AsyncClient, root_id: str) -> list[jobs_pb2.Event]:
    events: list[jobs_pb2.Event] = []
    async with stream(client.jobs.WatchEvents(jobs_pb2.WatchEventsRequest(root_id=root_id), timeout=30)) as responses:
        async for response in responses:
            events.extend(response.events)
    return events


def read_stopped(log: Path) -> Iterator[tuple[str, int]]:
    """Jobs whose handlers were stopped because their leases were over, and when they had ended, as a worker logged it."""
    for line in log.read_text(errors="replace").splitlines():
        if found := _STOPPED.match(line):
            time = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone()
            yield found[2], round(time.timestamp() * MICROS)
