"""Whose turn it is, decided without a store."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobs_svc.job import lane_of
from jobs_svc.policy import Policy
from jobs_svc.turns import Claimer, Running, WaitingJob, allot
from tests.jobs_svc.client import Client, Services, new_job


def waiting(*jobs: tuple[str, int, str]) -> list[WaitingJob]:
    """Jobs as (kind, priority, tenant), in order of age; their ids are their positions."""
    return sorted(WaitingJob(lane_of(*job), age, str(age)) for age, job in enumerate(jobs))


def worker(jobs: int = 1, *kinds: str) -> Claimer:
    return Claimer("w", frozenset(kinds or ("k",)), jobs)


def test_jobs_are_dealt_one_at_a_time_so_that_no_worker_sits_idle() -> None:
    jobs = waiting(*[("k", 0, "a")] * 5)
    assert allot([worker(10), worker(1), worker(10)], jobs, Running({}), Policy()) == [["0", "3"], ["1"], ["2", "4"]]


def test_the_tenant_with_fewer_running_jobs_comes_first_within_a_priority() -> None:
    jobs = waiting(("k", 0, "a"), ("k", 0, "a"), ("k", 0, "b"), ("k", 1, "a"))
    running = Running({lane_of("other", 0, "a"): 1})
    assert allot([worker(10)], jobs, running, Policy()) == [["3", "2", "0", "1"]]


def test_limits_hold_back_a_kind_and_a_tenant_but_nobody_else() -> None:
    policy = Policy(kind_limits={"k": 3}, tenant_limits={"*": 1})
    jobs = waiting(("k", 0, "a"), ("k", 0, "a"), ("k", 0, "b"), ("k", 0, "c"), ("free", 0, "a"))
    running = Running({lane_of("k", 0, "z"): 1})
    assert allot([worker(10, "k", "free")], jobs, running, policy) == [["0", "2", "4"]]


def test_a_tenants_limit_counts_its_jobs_of_all_kinds() -> None:
    jobs = waiting(("k", 0, "a"), ("l", 0, "a"), ("k", 0, "b"), ("l", 0, "b"))
    running = Running({lane_of("other", 0, "a"): 1})
    assert allot([worker(10, "k", "l")], jobs, running, Policy(tenant_limit=2)) == [["2", "0", "3"]]


async def test_limits_hold_over_the_wire_and_room_wakes_who_waits(services: Services) -> None:
    client: Client = services.client(await services.start(kind_limits={"work": 2}))
    await client.create(*(new_job() for _ in range(4)))
    leases = await client.claim(jobs=4)
    assert len(leases) == 2
    assert await client.claim() == []
    await client.succeed(leases[0])
    assert await client.claim_one()


jobs = st.tuples(st.sampled_from(["k", "l"]), st.integers(-2, 2), st.sampled_from(["a", "b", "c"]))


@given(st.lists(jobs, max_size=30), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_every_slot_gets_a_job_while_there_is_one_and_none_twice(
    queued: list[tuple[str, int, str]], slots: list[int]
) -> None:
    allotted = allot([worker(n, "k", "l") for n in slots], waiting(*queued), Running({}), Policy())
    ids = [id_ for part in allotted for id_ in part]
    assert len(ids) == len(set(ids)) == min(len(queued), sum(slots))
    # Whatever was left waiting is no more urgent than anything that was taken.
    left = [queued[n][1] for n in range(len(queued)) if str(n) not in ids]
    assert not left or not ids or max(left) <= min(queued[int(id_)][1] for id_ in ids)
