"""Many callers at once, on one replica and on several: granted is exactly what fits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count

import pytest

from svc_common.errors import ErrorReason, ServiceError
from tests.budget_svc.house import House, refused

OpenHouse = Callable[..., Awaitable[House]]
CALLERS = 64


async def outcome(call: Awaitable[object]) -> str:
    try:
        await call
    except ServiceError as error:
        return error.reason.name
    return "granted"


async def test_parallel_first_requests_are_granted_exactly_what_fits(house: House) -> None:
    await house.create("request", 1000)
    jobs = ["request", *(f"job{number}" for number in range(3))]
    for job in jobs[1:]:
        await house.create(job, 1000, parent_id="request")
    outcomes = await asyncio.gather(
        *(outcome(house.reserve(f"c{number}", jobs[number % 4], 30)) for number in range(CALLERS))
    )
    assert Counter(outcomes) == {"granted": 33, "BUDGET_HELD": CALLERS - 33}
    assert await house.balances("request") == (0, 990)
    assert await house.verify() == []


async def test_parallel_callers_spend_a_limit_to_the_last_and_never_over(house: House) -> None:
    """Each keeps calling until the limit is used up; no two ever use the same money."""
    await house.create("request", 2000)

    async def caller(number: int) -> int:
        spent = 0
        for step in count():
            charge_id = f"c{number}.{step}"
            reserved = await outcome(house.reserve(charge_id, "request", 7 + number % 5, max_wait=30, dispatch=True))
            if reserved == "BUDGET_EXCEEDED":
                return spent
            assert reserved == "granted"
            cost = 1 + (number + step) % 7
            await house.settle(charge_id, cost)
            spent += cost
        raise AssertionError("unreachable")

    spent = sum(await asyncio.gather(*(caller(number) for number in range(CALLERS))))
    assert await house.balances("request") == (spent, 0)
    assert 2000 - 11 < spent <= 2000
    assert await house.verify() == []


async def test_the_same_reservation_asked_for_in_parallel_is_held_once(house: House) -> None:
    await house.create("request", 1000)
    outcomes = await asyncio.gather(*(outcome(house.reserve("c", "request", 30)) for _ in range(CALLERS)))
    assert Counter(outcomes) == {"granted": CALLERS}
    outcomes = await asyncio.gather(*(outcome(house.settle("c", 20)) for _ in range(CALLERS)))
    assert Counter(outcomes) == {"granted": CALLERS}
    assert await house.balances("request") == (20, 0)
    assert len(await house.entries("request")) == 3


async def test_replicas_share_one_limit(open_house: OpenHouse, database_url: str) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("one process per SQLite file")
    houses = [await open_house() for _ in range(3)]
    # Each of them makes the tenant's budget, and each the request's.
    created = await asyncio.gather(*(outcome(house.create("request", 1000)) for house in houses * 4))
    assert Counter(created) == {"granted": 12}
    outcomes = await asyncio.gather(
        *(outcome(houses[number % 3].reserve(f"c{number // 2}", "request", 30)) for number in range(2 * CALLERS))
    )
    # Every id was asked for twice, of different replicas.
    assert Counter(outcomes) == {"granted": 66, "BUDGET_HELD": 2 * CALLERS - 66}
    assert await houses[0].balances("request") == (0, 990)
    released = await asyncio.gather(*(outcome(house.release("unseen")) for house in houses))
    assert Counter(released) == {"granted": 3}
    assert (await refused(houses[0].reserve("unseen", "request", 5))).reason is ErrorReason.CHARGE_STATE
    assert await houses[1].verify() == []
