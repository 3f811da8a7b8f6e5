"""Calls that are repeated because their reply was lost: the outcome is that of the first."""

from __future__ import annotations

import asyncio

from dbp.jobs.v1 import jobs_pb2

from jobs_svc.job import NewJob
from jobs_svc.operations import CreateJobs
from jobs_svc.policy import Policy
from jobs_svc.queue import JobQueue
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.turns import Claimer
from svc_common.group_commit import GroupCommitter
from svc_common.store import Database, migrate, open_engine
from svc_common.times import MICROS, now
from tests.jobs_svc.client import ACCEPTED, Client, Services, eventually, new_job

LARGE = b"x" * 1024 * 1024


async def test_a_repeated_claim_returns_its_leases_and_costs_no_attempt(client: Client) -> None:
    await client.create(*(new_job(f"j{number}", payload=b"p", max_attempts=1) for number in range(3)))
    leases = await client.claim(claim_id="one", jobs=2)
    again = await client.claim(claim_id="one", jobs=2)
    assert [(lease.job.id, lease.fencing_token, lease.job.attempt) for lease in again] == [("j0", 1, 1), ("j1", 1, 1)]
    assert again[0].job == leases[0].job
    assert again[0].expire_time.ToMicroseconds() > leases[0].expire_time.ToMicroseconds()
    assert [await client.succeed(lease) for lease in again] == [ACCEPTED, ACCEPTED]
    # Nothing of it is left, so it is a claim like any other.
    assert [lease.job.id for lease in await client.claim(claim_id="one", jobs=2)] == ["j2"]


async def test_a_lease_that_went_on_to_somebody_else_is_not_given_to_a_repeated_claim(services: Services) -> None:
    client = services.client(await services.start(lease_seconds=0.2))
    await client.create(new_job("j"))
    await client.claim(claim_id="one")
    lease = await client.claim_one("other")
    assert lease.fencing_token == 2
    assert await client.claim(claim_id="one") == []


async def test_a_claim_beside_reports_can_be_repeated(client: Client) -> None:
    await client.create(new_job("first"), new_job("second"), new_job("third"))
    lease = await client.claim_one()
    reports = [jobs_pb2.JobReport(job_id="first", fencing_token=lease.fencing_token, success=jobs_pb2.Success())]
    claim = jobs_pb2.NextClaim(kinds=["work"], claim_id="next")
    request = jobs_pb2.ReportJobsRequest(worker_id="w", reports=reports, next_claim=claim)
    for _ in range(2):
        response = await client.call("ReportJobs", request)
        assert [lease.job.id for lease in response.leases] == ["second"]
        assert [result.disposition for result in response.results] == [ACCEPTED]


async def test_a_repeated_creation_returns_the_leases_that_it_made(client: Client) -> None:
    for _ in range(2):
        [created] = await client.create(new_job("j", payload=b"p"), claim_for_worker_id="w", claim_id="one")
        assert (created.lease.fencing_token, created.lease.job.payload, created.lease.job.attempt) == (1, b"p", 1)
    [created] = await client.create(new_job("j", payload=b"p"), claim_for_worker_id="w", claim_id="two")
    assert not created.HasField("lease")


async def test_leases_come_as_many_as_fit_into_a_message_and_the_others_go_to_whoever_waits(client: Client) -> None:
    for number in range(12):
        await client.create(new_job(f"j{number}", payload=LARGE))
    first, second = await asyncio.gather(client.claim(jobs=12), client.claim("other", jobs=12, wait=20))
    ids = [lease.job.id for lease in (*first, *second)]
    assert len(ids) == len(set(ids))
    assert all(lease.job.payload == LARGE for lease in first)
    while leases := await client.claim(jobs=12):
        ids += [lease.job.id for lease in leases]
    assert len(ids) == 12


async def test_a_creator_gets_its_payloads_once(client: Client) -> None:
    jobs = [new_job(f"j{number}", payload=LARGE) for number in range(10)]
    created = await client.create(*jobs, claim_for_worker_id="w")
    assert [job.lease.job.payload for job in created] == [LARGE] * 10


async def test_the_leases_of_a_creator_that_left_go_to_the_next_one(database_url: str) -> None:
    database = Database(open_engine(database_url))
    migrate(database.engine, MIGRATIONS)
    store = Store(database, Policy(), now, lambda changes: None)
    committer = GroupCommitter(store.execute, name="test")
    queue = JobQueue(committer, store.reads, now, Policy())
    op = CreateJobs([NewJob("j", "work", now() + 60 * MICROS, tenant="a")], claim_for="gone")
    creation = asyncio.create_task(queue.create(op))
    await asyncio.sleep(0)  # it waits for the commit now
    creation.cancel()
    await asyncio.gather(creation, return_exceptions=True)

    async def is_claimed() -> bool:
        return bool(await queue.claim(Claimer("w", frozenset(["work"]), 1), 0))

    await eventually(is_claimed)
    await committer.close()
    database.close()
