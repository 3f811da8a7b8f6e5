"""Several replicas on one PostgreSQL, with signals and by polling alone, and a PostgreSQL that goes away and comes back."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from externalscaler import externalscaler_pb2, externalscaler_pb2_grpc
from sqlalchemy import text

from jobs_svc.catch_up import RECOUNT_SECONDS
from jobs_svc.job import Phase
from jobs_svc.signals import CHANNEL, Signal, Signals
from jobs_svc.statements import Statements
from jobs_svc.transaction import Changes
from svc_common.channel import stream
from svc_common.errors import ErrorReason, ServiceError
from tests.jobs_svc.client import ABORTED, ACCEPTED, CANCELLED, Client, Services, eventually, new_job, note
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


async def test_a_slow_watcher_misses_nothing_of_what_two_replicas_commit_in_turn(services: Services) -> None:
    # No hint comes in time: that something is missing shows by the numbers alone.
    first, second = [services.client(await services.start(poll_only=True, poll_seconds=60)) for _ in range(2)]
    [created] = await first.create(new_job("root"), claim_for_worker_id="w")
    async with stream(first.watch("root")) as responses:
        seen = [event.sequence for event in (await anext(responses)).events]
        await first.report(
            created.lease, events=[note(b"n" * 1_000_000) for _ in range(7)]
        )  # more than is under way unread
        for client in (first, second, first, second, first):
            await client.report(created.lease, events=[note(b"n")])
        await first.succeed(created.lease)
        async for response in responses:
            seen.extend(event.sequence for event in response.events)
    assert seen == list(range(1, 15))


async def test_news_of_more_than_a_notification_holds_reaches_all_whom_they_concern(
    replicas: tuple[Client, Client],
) -> None:
    first, second = replicas
    await first.create(new_job("j", kind="other"))
    await first.claim_one("w", kinds=["other"])
    waiting = asyncio.create_task(second.claim_one(wait=20))
    watching = asyncio.create_task(second.log("j"))
    async with stream(second.watch_stops("w")) as stops:
        await anext(stops)
        await asyncio.sleep(0.2)
        await first.create(*(new_job(f"{n}" + "x" * 100, kind="many") for n in range(200)), new_job("mine"))
        ids = [job.id for job in (await first.list_jobs(kinds=["many"], page_size=200)).jobs]
        await first.abort(*ids, "j")
        async with asyncio.timeout(20):
            assert (await anext(stops)).job_id == "j"
    assert (await waiting).job.id == "mine"
    assert [event.state_change.state for event in await watching][-1:] == [ABORTED]


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


async def test_work_that_arrives_at_one_replica_is_announced_to_the_scaler_at_the_other(services: Services) -> None:
    first, second = [services.client(await services.start(poll_seconds=60)) for _ in range(2)]
    ref = externalscaler_pb2.ScaledObjectRef(name="workers", namespace="dbp", scalerMetadata={"kinds": "work"})
    async with stream(externalscaler_pb2_grpc.ExternalScalerStub(second.channel).StreamIsActive(ref)) as activity:
        next_activity = asyncio.ensure_future(anext(activity))
        await asyncio.sleep(0.2)
        await first.create(new_job("j"))
        async with asyncio.timeout(RECOUNT_SECONDS / 2):
            assert (await next_activity).result


async def test_a_replica_that_freezes_while_it_is_its_turn_to_write_loses_it(services: Services) -> None:
    client = services.client(await services.start())
    holding = "import psycopg, sys; c = psycopg.connect(sys.argv[1]); c.execute(sys.argv[2]); print('held', flush=True); input()"
    turn = Statements(is_sqlite=False).writers_turn
    assert turn
    frozen = await asyncio.create_subprocess_exec(
        sys.executable, "-c", holding, services.database_url, turn[0], stdin=PIPE, stdout=PIPE
    )
    try:
        assert frozen.stdout
        assert await frozen.stdout.readline() == b"held\n"
        frozen.send_signal(signal.SIGSTOP)
        [created] = await client.create(new_job("j"))
        assert created.created
    finally:
        frozen.kill()
        await frozen.wait()


async def test_a_listener_that_hears_nothing_at_all_connects_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs_svc.signals.SELF_CHECK_SECONDS", 0.1)
    signals = Signals(postgres_url, lambda signal: None)
    with pytest.raises(ServiceError) as caught:
        await signals.run_listener()
    assert caught.value.reason is ErrorReason.STORE_UNAVAILABLE
    sending = asyncio.create_task(signals.run_sender())
    listening = asyncio.create_task(signals.run_listener())
    done, _ = await asyncio.wait({sending, listening}, timeout=1.5)
    assert not done
    for task in (sending, listening):
        task.cancel()
    await asyncio.gather(sending, listening, return_exceptions=True)


async def test_a_replica_speaks_of_its_commits_while_there_is_another_and_not_when_it_is_alone(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs_svc.signals.ANSWER_SECONDS", 0.2)
    heard: list[Signal] = []
    first, second = Signals(postgres_url, lambda signal: None), Signals(postgres_url, heard.append)
    changes = Changes(moved=Counter({("work", Phase.READY): 1}), readied=Counter(work=1))
    loops = [asyncio.create_task(run()) for run in (first.run_sender, first.run_listener)]
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"LISTEN {CHANNEL}")

        async def is_silent() -> bool:
            first.send(changes)
            return not [notify async for notify in connection.notifies(timeout=0.3) if "work" in notify.payload]

        await eventually(is_silent)
    loops += [asyncio.create_task(run()) for run in (second.run_sender, second.run_listener)]

    async def is_heard() -> bool:
        first.send(changes)
        return any(signal.readied for signal in heard)

    await eventually(is_heard)
    assert sum(signal.is_all for signal in heard) == 2  # as it began to listen, and as the other one answered
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


async def test_nothing_is_prepared_on_connections_that_a_pooler_may_change(services: Services) -> None:
    service = await services.start(poll_only=True)
    client = services.client(service)
    for number in range(10):
        await client.create(new_job(f"j{number}"))
        await client.succeed(await client.claim_one())
        await client.get(f"j{number}")
    with ExitStack() as stack:
        connections = [stack.enter_context(service._database.engine.connect()) for _ in range(8)]
        prepared = [
            connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) for connection in connections
        ]
    assert prepared == [0] * 8


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
