"""Where claims begin to search: never above a job that is ready, as far as can be known."""

from __future__ import annotations

from jobs_svc.job import LiveJob, lane_of
from jobs_svc.low_water import LOOK_AT_ALL_EVERY, LowWater
from jobs_svc.turns import WaitingJob
from tests.jobs_svc.client import Services, new_job

KINDS = frozenset({"k"})
A, B = lane_of("k", 0, "a"), lane_of("k", 0, "b")


def looked() -> LowWater:
    low_water = LowWater()
    low_water.look_at_all(KINDS, 0)
    waiting = [WaitingJob(A, 1, "a1"), WaitingJob(A, 2, "a2"), WaitingJob(A, 3, "a3"), WaitingJob(B, 4, "b4")]
    low_water.settle(waiting, {"a1", "b4"})
    return low_water


def test_a_search_begins_at_the_first_job_that_was_left_or_else_at_the_last_that_was_taken() -> None:
    assert looked().marks_of(KINDS) == {A: 2, B: 4}


def test_a_job_that_comes_back_lowers_the_mark_of_its_lane_and_a_younger_one_does_not() -> None:
    low_water = looked()
    for lane, age in ((A, 1), (B, 9), (lane_of("k", 1, "a"), 5)):
        low_water.lower([LiveJob("j", "j", "", lane, age, 100, 3, 0)])
    assert low_water.marks_of(KINDS) == {A: 1, B: 4, lane_of("k", 1, "a"): 5}


def test_everything_is_looked_at_now_and_then_and_when_somebody_else_may_know_more() -> None:
    low_water = looked()
    assert low_water.knows(KINDS, LOOK_AT_ALL_EVERY - 1)
    assert not low_water.knows(KINDS, LOOK_AT_ALL_EVERY)
    assert not low_water.knows(KINDS | {"l"}, 1)
    low_water.forget()
    assert not low_water.knows(KINDS, 1)


async def test_a_job_that_was_given_back_is_found_below_those_that_were_leased_since(services: Services) -> None:
    client = services.client(await services.start())
    await client.create(*(new_job(f"j{number}") for number in range(4)))
    first = await client.claim_one()
    await client.claim_one()
    await client.release(first)
    assert [(await client.claim_one()).job.id for _ in range(3)] == ["j0", "j2", "j3"]
    assert await client.claim() == []
