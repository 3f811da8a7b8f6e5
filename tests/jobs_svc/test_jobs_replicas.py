"""Several replicas on one PostgreSQL, with signals and by polling alone, and a PostgreSQL that goes away and comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from svc_common.channel import stream
from svc_common.errors import ErrorReason, ServiceError
from tests.jobs_svc.client import ACCEPTED, CANCELLED, Client, Services, eventually, new_job, note
from tests.support.postgres import PostgresServer


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture(params=["signals", "polls"])
async def replicas(request: pytest.FixtureRequest, services: Services) -> tuple[Client, Client]:
    """Clients of two replicas."""
    # With signals the polls are too rare to help; without them there is nothing else.
    settings: dict[str, Any] = {"poll_seconds": 60} if request.param == "signals" else {"poll_only": True}
    first, second = [services.client(await services.start(**settings)) for _ in range(2)]
    return first, second


async def test_a_job_created_at_one_replica_wakes_a_worker_at_the_other(replicas: tuple[Client, Client]) -> None:
    first, second = replicas
    for number in range(5):
        waiting = asyncio.create_task(second.claim_one(wait=20))
        await asyncio.sleep(0.1)
        await first.create(new_job(f"j{number}"))
        lease = await waiting
        assert lease.job.id == f"j{number}"
        assert await first.succeed(lease) == ACCEPTED


async def test_a_watch_at_one_replica_sees_what_is_reported_at_the_other(replicas: tuple[Client, Client]) -> None:
    first, second = replicas
    [created] = await first.create(new_job("root"), claim_for_worker_id="w")
    watching = asyncio.create_task(second.log("root"))
    for number in range(20):
        await (first if number % 3 else second).report(created.lease, events=[note(b"n")])
    await first.succeed(created.lease)
    assert [event.sequence for event in await watching] == list(range(1, 23))


async def test_an_abort_at_one_replica_reaches_the_worker_at_the_other(replicas: tuple[Client, Client]) -> None:
    first, second = replicas
    await first.create(new_job("j"))
    await first.claim_one("w")
    async with stream(second.watch_stops("w")) as stops:
        await anext(stops)
        await first.abort("j")
        async with asyncio.timeout(20):
            stop = await anext(stops)
    assert (stop.job_id, stop.reason) == ("j", CANCELLED)


async def test_no_job_is_leased_twice_by_replicas_that_claim_at_once(replicas: tuple[Client, Client]) -> None:
    await replicas[0].create(*(new_job() for _ in range(120)))

    async def drain(client: Client, worker: str) -> list[str]:
        ids: list[str] = []
        while leases := await client.claim(worker, jobs=7):
            ids += [lease.job.id for lease in leases]
        return ids

    drained = await asyncio.gather(*(drain(client, f"w{n}") for n, client in enumerate(replicas * 3)))
    ids = [id_ for part in drained for id_ in part]
    assert len(ids) == len(set(ids)) == 120


async def test_a_deadline_holds_when_the_replica_that_took_the_job_is_gone(services: Services) -> None:
    gone = await services.start()
    await services.client(gone).create(new_job("root", seconds=1), claim_for_worker_id="w")
    client = services.client(await services.start())
    await gone.stop()
    last = (await client.log("root"))[-1]
    root = await client.get("root")
    assert last.time.ToMicroseconds() <= root.deadline.ToMicroseconds() + 1_000_000


async def test_a_restart_of_postgresql_is_survived_and_nothing_acknowledged_is_lost(
    own_postgres: PostgresServer,
) -> None:
    async with Services(own_postgres.url) as services:
        client = services.client(await services.start(), patience=30)
        acknowledged: list[str] = []
        stopping = asyncio.Event()

        async def produce() -> None:
            while not stopping.is_set():
                [created] = await client.create(new_job())
                acknowledged.append(created.job.id)

        async def has_more(number: int) -> bool:
            return len(acknowledged) >= number

        producer = asyncio.create_task(produce())
        await eventually(lambda: has_more(20))
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)
        reached = len(acknowledged)
        await eventually(lambda: has_more(reached + 20))
        stopping.set()
        await producer
        claimed: set[str] = set()
        while leases := await client.claim(jobs=200):
            claimed.update(lease.job.id for lease in leases)
        assert claimed >= set(acknowledged)


async def test_a_store_that_is_away_is_said_to_be_so(own_postgres: PostgresServer) -> None:
    async with Services(own_postgres.url) as services:
        client = services.client(await services.start())
        await asyncio.to_thread(own_postgres.kill)
        for attempt in (client.create(new_job()), client.claim(), client.get("j")):
            with pytest.raises(ServiceError) as caught:
                await attempt
            assert caught.value.reason is ErrorReason.STORE_UNAVAILABLE
            assert "psycopg" not in caught.value.message
        await asyncio.to_thread(own_postgres.start)
