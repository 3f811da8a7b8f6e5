"""The event log of a root: watched from anywhere without gaps and repeats, while it grows, shrinks or its service restarts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbp.jobs.v1 import jobs_pb2

from jobs_svc.events import Event, Note, Text
from jobs_svc.job import NewJob
from jobs_svc.operations import CreateJobs, Report, Success
from jobs_svc.policy import Policy
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.transaction import Operation, ReportJobs
from jobs_svc.upkeep import Compactor
from svc_common.channel import stream
from svc_common.errors import ErrorReason, ServiceError
from svc_common.group_commit import GroupCommitter
from svc_common.store import Database, migrate, open_engine
from svc_common.times import MICROS, now
from tests.jobs_svc.client import Client, Services, eventually, new_job, note, text


async def grow(client: Client, lease: jobs_pb2.Lease, reports: int, per_report: int = 1) -> None:
    for number in range(reports):
        notes = [note(f"{number}.{part}".encode()) for part in range(per_report)]
        await client.report(lease, events=notes)


def sequences(events: list[jobs_pb2.Event]) -> list[int]:
    return [event.sequence for event in events]


async def test_watchers_from_anywhere_see_the_rest_once_and_in_order(client: Client) -> None:
    [created] = await client.create(new_job("root"), claim_for_worker_id="w")
    watchers = [asyncio.create_task(client.log("root", after)) for after in (0, 3, 40)]
    await grow(client, created.lease, 20, per_report=3)
    watchers.append(asyncio.create_task(client.log("root", 10)))
    await client.succeed(created.lease)
    last = 1 + 60 + 1
    for after, watcher in zip((0, 3, 40, 10), watchers, strict=True):
        assert sequences(await watcher) == list(range(after + 1, last + 1))
    assert await client.log("root", last) == []


async def test_a_log_of_many_pages_is_read_whole(client: Client) -> None:
    [created] = await client.create(new_job("root"), claim_for_worker_id="w")
    await grow(client, created.lease, 3, per_report=700)
    big = [note(b"x" * 900_000) for _ in range(8)]
    await client.report(created.lease, events=big)
    await client.succeed(created.lease)
    assert sequences(await client.log("root")) == list(range(1, 1 + 2100 + 8 + 2))


async def test_unknown_roots_and_children_have_no_log(client: Client) -> None:
    await client.create(new_job("root"), new_job("child", parent_id="root"))
    for id_ in ("child", "nobody"):
        with pytest.raises(ServiceError) as caught:
            await client.log(id_)
        assert caught.value.reason is ErrorReason.JOB_NOT_FOUND


async def test_a_watch_resumes_after_a_restart_without_gap_or_repeat(services: Services) -> None:
    service = await services.start()
    client = services.client(service)
    [created] = await client.create(new_job("root"), claim_for_worker_id="w")
    seen: list[int] = []

    async def follow(client: Client) -> None:
        async with stream(client.watch("root", seen[-1] if seen else 0)) as responses:
            async for response in responses:
                seen.extend(event.sequence for event in response.events)

    watching = asyncio.create_task(follow(client))
    await grow(client, created.lease, 5)
    await service.stop()
    with pytest.raises(ServiceError) as caught:
        await watching
    assert caught.value.reason is ErrorReason.SERVICE_UNAVAILABLE
    client = services.client(await services.start())
    await grow(client, created.lease, 5)
    watching = asyncio.create_task(follow(client))
    await client.succeed(created.lease)
    await watching
    assert seen == list(range(1, 13))


async def test_a_watcher_that_does_not_read_costs_bounded_memory_and_is_told_to_resume(client: Client) -> None:
    [created] = await client.create(new_job("root"), claim_for_worker_id="w")
    watch = client.watch("root")
    first = await watch.read()  # from here on it reads no more
    for _ in range(8):
        await client.report(created.lease, events=[note(b"x" * 900_000) for _ in range(8)])
    seen = [event.sequence for event in first.events]

    async def read_on() -> None:
        async with stream(watch) as responses:
            async for response in responses:
                seen.extend(event.sequence for event in response.events)

    with pytest.raises(ServiceError) as caught:
        await read_on()
    assert caught.value.reason is ErrorReason.WATCHER_TOO_SLOW
    await client.succeed(created.lease)
    seen += sequences(await client.log("root", seen[-1]))
    assert seen == list(range(1, 1 + 64 + 2))


async def test_text_is_merged_once_the_root_has_ended_and_watchers_begin_inside_it(services: Services) -> None:
    client = services.client(await services.start())
    [created] = await client.create(new_job("root"), claim_for_worker_id="w")
    for piece in ("Grüße ", "aus ", "der ", "Küche"):
        await client.report(created.lease, events=[text(piece)])
    await client.report(created.lease, events=[text("other", "partial")])
    await client.succeed(created.lease, events=[text(" end")])
    log = await merged_log(client)
    assert [(e.first_sequence, e.sequence, e.text.text) for e in log if e.HasField("text")] == [
        (2, 5, "Grüße aus der Küche"),
        (6, 6, "other"),
        (7, 7, " end"),
    ]
    assert sequences(log) == [1, 5, 6, 7, 8]
    [inside, *_] = await client.log("root", 3)
    assert (inside.first_sequence, inside.sequence, inside.text.text) == (4, 5, "der Küche")


async def merged_log(client: Client) -> list[Any]:
    """The log of "root", once it has been compacted."""
    log: list[Any] = []

    async def is_merged() -> bool:
        log[:] = await client.log("root")
        return sequences(log) != list(range(1, log[-1].sequence + 1))

    await eventually(is_merged)
    return log


async def test_old_trees_are_removed_in_small_steps_and_young_ones_stay(services: Services) -> None:
    client = services.client(await services.start(retention_seconds=0.5, retention_interval_seconds=0.1))
    [old] = await client.create(new_job("old"), claim_for_worker_id="w")
    await client.create(new_job("old.child", parent_id="old", kind="tool"))
    await grow(client, old.lease, 3, per_report=800)
    record = jobs_pb2.AuditRecord(job_id="old", record_json="{}")
    await client.call("AppendAuditRecords", jobs_pb2.AppendAuditRecordsRequest(root_id="old", records=[record]))
    await client.create(new_job("unfinished"))
    await client.succeed(old.lease)

    async def is_removed() -> bool:
        return [job.id for job in (await client.list_jobs()).jobs] == ["unfinished"]

    await eventually(is_removed)
    with pytest.raises(ServiceError) as caught:
        await client.log("old")
    assert caught.value.reason is ErrorReason.JOB_NOT_FOUND
    [again] = await client.create(new_job("old", kind="tool"))
    assert again.created
    assert sequences(await client.log("old", until=1)) == [1]


async def test_two_replicas_may_merge_one_log_at_once(database_url: str) -> None:
    database = Database(open_engine(database_url))
    migrate(database.engine, MIGRATIONS)
    store = Store(database, Policy(lease_time=3600 * MICROS), now, lambda changes: None)
    store.execute([CreateJobs([NewJob("root", "work", now() + 3600 * MICROS, tenant="a")], claim_for="w")])
    pieces = [f"{number} " for number in range(1200)]
    for start in range(0, len(pieces), 100):
        store.execute(
            [ReportJobs([Report("root", 1, events=[Text("answer", piece)])]) for piece in pieces[start : start + 100]]
        )
    store.execute([ReportJobs([Report("root", 1, outcome=Success())])])

    other = Compactor(GroupCommitter(store.execute, name="other"), store.reads)

    class Interrupted(GroupCommitter[Operation, Any]):
        """Lets the other replica go all the way just before our second step."""

        steps = 0

        async def submit(self, op: Operation) -> Any:
            self.steps += 1
            if self.steps == 2:
                await other.compact("root")
            return await super().submit(op)

    await Compactor(Interrupted(store.execute, name="ours"), store.reads).compact("root")
    log: list[Event] = []
    while not log or not log[-1].is_last:
        log += (await store.reads.log("root", log[-1].sequence if log else 0)).events
    assert "".join(event.body.text for event in log if isinstance(event.body, Text)) == "".join(pieces)
    assert [event.first_sequence for event in log[1:]] == [event.sequence + 1 for event in log[:-1]]
    assert len(log) < 10
    database.close()


async def test_of_a_log_that_is_being_removed_nobody_sees_a_part(database_url: str) -> None:
    database = Database(open_engine(database_url))
    migrate(database.engine, MIGRATIONS)
    store = Store(database, Policy(), now, lambda changes: None)
    store.execute([CreateJobs([NewJob("root", "work", now() + 60 * MICROS, tenant="a")], claim_for="w")])
    notes = [Note("n", b"")] * 8
    store.execute([ReportJobs([Report("root", 1, events=notes, outcome=Success())])])
    for last_removed in (5, 10):
        with database.engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM events WHERE sequence <= {last_removed}")
        with pytest.raises(ServiceError) as caught:
            await store.reads.log("root", 3)
        assert caught.value.reason is ErrorReason.JOB_NOT_FOUND
    assert (await store.reads.log("root", 10)).is_end
    database.close()
