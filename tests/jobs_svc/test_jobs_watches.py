"""Those who wait in memory: none of them misses what it waits for, and none costs more than it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs_svc.events import Event, Note
from jobs_svc.job import NewJob, Stop
from jobs_svc.operations import CreateJobs, Report, Success
from jobs_svc.policy import Policy
from jobs_svc.queue import JobQueue
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.transaction import Changes, Operation, ReportJobs
from jobs_svc.turns import Claimer
from jobs_svc.watches import STOPS_REMEMBERED, LogWatches, StopWatches, Waiters
from svc_common.endings import EndReason
from svc_common.errors import ErrorReason, ServiceError
from svc_common.group_commit import GroupCommitter
from svc_common.store import Database, migrate, open_engine
from svc_common.times import MICROS, now


def event(sequence: int) -> Event:
    return Event("root", sequence, 0, "root", Note("t", b""), sequence)


async def test_a_watch_reads_the_store_when_another_replica_committed_between_two_commits_of_ours() -> None:
    logs = LogWatches()
    with logs.watch("root") as watch:
        logs.publish([event(5), event(6)])
        assert await watch.next(4) == [event(5), event(6)]
        logs.publish([event(7)])
        logs.publish([event(9)])
        assert await watch.next(6) is None


async def test_a_stop_watch_that_is_not_read_ends_instead_of_growing() -> None:
    stops = StopWatches()
    with stops.watch("w") as watch:
        stops.publish(Stop("w", f"j{number}", 1, EndReason.CANCELLED, 0) for number in range(STOPS_REMEMBERED + 1))
        with pytest.raises(ServiceError) as caught:
            await watch.next()
    assert caught.value.reason is ErrorReason.WATCHER_TOO_SLOW


async def test_a_stop_that_was_read_and_is_published_too_is_sent_once() -> None:
    stops = StopWatches()
    first, second = (Stop("w", id_, 1, EndReason.CANCELLED, 0) for id_ in ("j1", "j2"))
    with stops.watch("w") as watch:
        stops.publish([first])
        assert watch.unsent([first]) == (first,)
        stops.publish([first, second])
        assert await watch.next() == (second,)


def worker(*kinds: str) -> Claimer:
    return Claimer("w", frozenset(kinds), 1)


async def test_a_waiter_that_leaves_passes_on_what_it_was_woken_for() -> None:
    waiters = Waiters()
    with waiters.wait(worker("x")) as other:
        with waiters.wait(worker("x")) as waiter:
            waiters.wake("x", 2)
            other.take_claim()  # it found nothing, and waits again
            waiter.take_claim()
        assert other.is_woken


async def test_a_waiter_that_takes_another_kind_passes_on_what_it_was_woken_for() -> None:
    waiters = Waiters()
    with waiters.wait(worker("x")) as other:
        other.wake("x")
        with waiters.wait(worker("x", "y")) as waiter:
            waiters.wake("x", 1)
            other.take_claim()
            waiter.take_claim()
            waiter.has_taken(["y"])
        assert other.is_woken


async def test_what_one_commit_makes_ready_or_frees_wakes_whatever_else_it_leases(tmp_path: Path) -> None:
    policy = Policy(tenant_limits={"work": 1})
    published: list[Changes] = []
    database = Database(open_engine(f"sqlite:///{tmp_path}/jobs.sqlite"))
    migrate(database.engine, MIGRATIONS)
    store = Store(database, policy, now, published.append)
    queue = JobQueue(GroupCommitter(store.execute, name="test"), store.reads, now, policy)

    def new(id_: str, tenant: str) -> list[NewJob]:
        return [NewJob(id_, "work", now() + 60 * MICROS, tenant=tenant)]

    ends = ReportJobs([Report("a1", 1, outcome=Success())])
    store.execute([CreateJobs(new("a1", "a"), claim_for="w"), CreateJobs(new("c1", "c"))])
    commits: list[list[Operation]] = [
        [ends, CreateJobs(new("b1", "b"), claim_for="w")],
        [CreateJobs(new("d1", "d")), Claimer("w", frozenset(["work"]), 1)],
    ]
    for commit in commits:
        with queue.waiters.wait(worker("work")) as waiter:
            store.execute(commit)
            queue.publish(published[-1])
            assert waiter.is_woken
    database.close()
