"""What the passing of time does to jobs: delays, deadlines, leases that run out, and the zombies that come back from them."""

from __future__ import annotations

import asyncio

import pytest
from dbp.jobs.v1 import jobs_pb2

from svc_common.channel import stream
from svc_common.store import open_engine
from svc_common.times import MICROS, now
from tests.jobs_svc.client import (
    ABORTED,
    ACCEPTED,
    FAILED,
    INTERNAL_ERROR,
    JOB_ENDED,
    QUEUED,
    RUNNING,
    STALE,
    SUCCEEDED,
    TIMEOUT,
    Client,
    Services,
    about,
    new_job,
    text,
)


async def short_leases(services: Services, seconds: float = 0.3) -> Client:
    return services.client(await services.start(lease_seconds=seconds))


async def test_a_delayed_job_is_not_leased_before_its_time(client: Client) -> None:
    await client.create(new_job("j", delay=0.4))
    assert await client.claim() == []
    lease = await client.claim_one()
    assert lease.job.start_time.ToMicroseconds() >= lease.job.not_before_time.ToMicroseconds()


async def test_a_due_job_whose_deadline_has_passed_is_ended_and_not_run(client: Client) -> None:
    await client.create(new_job("late", seconds=0.3, delay=0.2))
    log = await client.log("late")
    assert [about(event) for event in log] == [("late", QUEUED, 0), ("late", ABORTED, TIMEOUT)]
    assert await client.claim() == []


async def test_a_roots_end_comes_at_its_deadline_with_that_of_all_its_descendants(client: Client) -> None:
    [created] = await client.create(new_job("root", seconds=0.5), claim_for_worker_id="w")
    await client.create(new_job("running", parent_id="root", kind="tool"), new_job("waiting", parent_id="root"))
    child = await client.claim_one(kinds=["tool"])
    async with stream(client.watch_stops()) as stops:
        await anext(stops)
        log = await client.log("root")
        stopped = [await anext(stops), await anext(stops)]
    assert [about(event) for event in log][-3:] == [
        ("running", ABORTED, TIMEOUT),
        ("waiting", ABORTED, TIMEOUT),
        ("root", ABORTED, TIMEOUT),
    ]
    assert log[-1].time.ToMicroseconds() <= created.job.deadline.ToMicroseconds() + MICROS
    assert {(stop.job_id, stop.reason) for stop in stopped} == {("root", TIMEOUT), ("running", TIMEOUT)}
    assert await client.succeed(child) == JOB_ENDED
    assert await client.succeed(created.lease) == JOB_ENDED


async def test_a_childs_deadline_ends_the_child_alone(client: Client) -> None:
    await client.create(new_job("root"), claim_for_worker_id="w")
    await client.create(new_job("child", parent_id="root", kind="tool", seconds=0.2))
    await client.log("root", until=3)
    assert (await client.get("child")).end_reason == TIMEOUT
    assert (await client.get("root")).state == RUNNING


async def test_a_zombies_late_report_changes_nothing(services: Services) -> None:
    client = await short_leases(services)
    await client.create(new_job("j"))
    zombie = await client.claim_one("a")
    current = await client.claim_one("b")
    assert (current.job.attempt, current.fencing_token) == (2, zombie.fencing_token + 1)
    assert await client.fail(zombie) == STALE
    assert await client.report(zombie, events=[text("ghost")], checkpoint=b"ghost") == STALE
    assert await client.succeed(zombie, result=b"ghost") == STALE
    job = await client.get("j")
    assert (job.state, job.attempt, job.checkpoint) == (RUNNING, 2, b"")
    assert await client.succeed(current, result=b"real") == ACCEPTED
    assert await client.succeed(zombie, result=b"ghost") == STALE
    job = await client.get("j")
    assert (job.state, job.result) == (SUCCEEDED, b"real")
    assert not [event for event in await client.log("j") if event.HasField("text")]


async def test_a_worker_hears_that_its_lease_went_to_somebody_else(services: Services) -> None:
    client = await short_leases(services)
    await client.create(new_job("j"))
    zombie = await client.claim_one("a")
    async with stream(client.watch_stops("a")) as stops:
        await anext(stops)
        stop = await anext(stops)
    assert (stop.job_id, stop.fencing_token, stop.reason) == ("j", zombie.fencing_token, INTERNAL_ERROR)
    assert (await client.get("j")).attempt_errors[0].reason == INTERNAL_ERROR


async def test_reports_keep_a_lease_alive(services: Services) -> None:
    client = await short_leases(services, 0.4)
    await client.create(new_job("j"))
    lease = await client.claim_one()
    for _ in range(8):
        await asyncio.sleep(0.1)
        assert await client.report(lease) == ACCEPTED
    assert (await client.get("j")).attempt == 1


async def test_a_job_that_kills_its_workers_ends_as_failed_with_its_history(services: Services) -> None:
    client = await short_leases(services, 0.1)
    await client.create(new_job("poison", max_attempts=2))
    for _ in range(2):
        await client.claim_one()
    log = await client.log("poison")
    assert about(log[-1]) == ("poison", FAILED, INTERNAL_ERROR)
    job = await client.get("poison")
    assert [error.attempt for error in job.attempt_errors] == [1, 2]
    assert "2 attempts" in job.error_message


async def test_a_retry_waits_its_backoff_and_none_is_begun_that_would_pass_the_deadline(services: Services) -> None:
    client = services.client(await services.start(retry_delay_seconds=0.3))
    await client.create(new_job("j"), new_job("short", seconds=0.25, kind="brief"))
    before = now()
    await client.fail(await client.claim_one())
    await client.fail(await client.claim_one(kinds=["brief"]))
    assert (await client.get("short")).state == FAILED
    assert await client.claim() == []
    again = await client.claim_one()
    assert again.job.start_time.ToMicroseconds() >= before + 300_000


async def test_what_was_acknowledged_is_there_after_a_restart(services: Services) -> None:
    service = await services.start()
    client = services.client(service)
    await client.create(new_job("root", seconds=2), claim_for_worker_id="w")
    await client.create(new_job("child", parent_id="root", kind="tool"), new_job("delayed", delay=0.5))
    lease = await client.claim_one(kinds=["tool"])
    await service.stop()
    client = services.client(await services.start())
    assert await client.succeed(lease, result=b"r") == ACCEPTED
    assert (await client.claim_one()).job.id == "delayed"
    stats = await client.call("GetQueueStats", jobs_pb2.GetQueueStatsRequest())
    assert {kind.kind: kind.running for kind in stats.kinds} == {"work": 2}
    assert about((await client.log("root"))[-1]) == ("root", ABORTED, TIMEOUT)


async def test_a_job_with_which_something_is_wrong_keeps_no_other_from_its_deadline(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    client = services.client(await services.start())
    await client.create(new_job("torn", seconds=1), new_job("torn.child", parent_id="torn", seconds=0.4))
    await client.create(new_job("whole", seconds=0.5))
    engine = open_engine(services.database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM live WHERE id = 'torn'")
    engine.dispose()
    assert about((await client.log("whole"))[-1]) == ("whole", ABORTED, TIMEOUT)
    assert "torn.child" in caplog.text
