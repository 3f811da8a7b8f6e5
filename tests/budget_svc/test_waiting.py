"""Waiting for room: in turn, woken by what comes free, and never past the time that was given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from budget_svc.operations import Release
from budget_svc.settings import RateSettings
from svc_common import deadline
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS, now
from tests.budget_svc.house import Charge, House, ManualClock, refused

OpenHouse = Callable[..., Awaitable[House]]

# Long enough that only a wake-up, never a poll, explains that a wait ended.
NO_POLL = {"poll_seconds": 60}


class Turns:
    """Reservations that wait, in the order in which they were granted."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.granted: list[str] = []
        self.tasks: dict[str, asyncio.Task[Charge]] = {}

    async def wait(self, charge_id: str, budget_id: str, cost: int, **fields: Any) -> None:
        """Returns when the reservation is in line."""
        waiting = self.house.service.keeper.waiting
        before = len(waiting)
        task = self.tasks[charge_id] = asyncio.create_task(self._reserve(charge_id, budget_id, cost, fields))
        await happens(lambda: len(waiting) > before or task.done())
        assert not task.done(), "it did not have to wait"

    async def _reserve(self, charge_id: str, budget_id: str, cost: int, fields: dict[str, Any]) -> Charge:
        charge = await self.house.reserve(charge_id, budget_id, cost, **{"max_wait": 30, **fields})
        self.granted.append(charge_id)
        return charge

    async def until(self, count: int) -> list[str]:
        """Those who were granted, in order, once there are so many."""
        await happens(lambda: len(self.granted) >= count)
        return self.granted


async def happens(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the service, which has no event for tests
            await asyncio.sleep(0.002)


@pytest.fixture
async def full(open_house: OpenHouse) -> House:
    """A request whose limit is wholly held by "first"."""
    house = await open_house(**NO_POLL)
    await house.create("request", 100)
    await house.create("job", 100, parent_id="request")
    await house.create("other", 100, parent_id="request")
    await house.reserve("first", "job", 100)
    return house


async def test_who_waits_is_granted_when_room_comes_free(full: House) -> None:
    turns = Turns(full)
    await turns.wait("c", "other", 60)
    await full.settle("first", 40)
    assert await turns.until(1) == ["c"]
    assert await full.balances("request") == (40, 60)
    assert (await turns.tasks["c"]).state == Charge.STATE_RESERVED


async def test_a_raised_limit_a_release_and_an_expiry_wake_too(full: House) -> None:
    turns = Turns(full)
    await turns.wait("adjusted", "other", 50)
    await full.adjust("request", 150)
    await turns.until(1)
    await turns.wait("released", "other", 50)
    await full.release("adjusted")
    await turns.until(2)
    await turns.wait("expired", "job", 100)
    full.clock.pass_seconds(60)
    await full.service.keeper.sweep()
    assert await turns.until(3) == ["adjusted", "released", "expired"]


async def test_what_a_refused_call_frees_wakes_too(full: House) -> None:
    turns = Turns(full)
    await turns.wait("c", "other", 60)
    full.clock.pass_seconds(60)
    assert (await refused(full.dispatch("first"))).reason is ErrorReason.CHARGE_STATE
    assert await turns.until(1) == ["c"]


async def test_what_a_caller_frees_who_does_not_wait_for_the_answer_wakes_too(full: House) -> None:
    turns = Turns(full)
    await turns.wait("c", "other", 60)
    releasing = asyncio.create_task(full.service.keeper.do(Release("first")))
    await asyncio.sleep(0)
    releasing.cancel()
    assert await turns.until(1) == ["c"]


async def test_who_waits_for_time_to_pass_is_tried_however_others_come_and_go(
    open_house: OpenHouse, clock: ManualClock
) -> None:
    house = await open_house(poll_seconds=0.5, model_rates={"penny": RateSettings(requests_per_minute=1)})
    await house.create("request", 100)
    await house.create("dear", 78_750_000)
    await house.reserve("first", "request", 10)
    await house.reserve("all", "dear", 2, model_id="dear")
    turns = Turns(house)
    await turns.wait("second", "request", 10)

    async def come_and_go(name: str) -> None:
        for number in count():
            await refused(house.reserve(f"{name}.{number}", "dear", 2, model_id="dear", max_wait=0.01))

    others = [asyncio.create_task(come_and_go(name)) for name in "abcd"]
    clock.pass_seconds(61)
    assert await turns.until(1) == ["second"]
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def test_turns_go_by_priority_then_by_arrival_and_nobody_overtakes(full: House) -> None:
    turns = Turns(full)
    await turns.wait("large", "other", 90)
    await turns.wait("small", "other", 10)
    await turns.wait("urgent", "job", 20, priority=5)
    error = await refused(full.reserve("impatient", "other", 2))
    assert error.reason is ErrorReason.BUDGET_HELD
    await full.settle("first", 0)
    assert await turns.until(1) == ["urgent"]
    # 80 are free, enough for "small" but not for "large", which came first.
    assert (await refused(full.reserve("newcomer", "job", 2))).reason is ErrorReason.BUDGET_HELD
    assert turns.granted == ["urgent"]
    await full.reserve("more-urgent", "job", 2, priority=1)
    await full.release("more-urgent")
    await full.settle("urgent", 0)
    assert await turns.until(3) == ["urgent", "large", "small"]


async def test_a_conclusion_does_not_wait_behind_what_is_none(open_house: OpenHouse) -> None:
    house = await open_house(**NO_POLL)
    await house.create("job", 100, conclusion_reserve=20)
    await house.reserve("first", "job", 80)
    turns = Turns(house)
    await turns.wait("ordinary", "job", 10)
    await house.reserve("conclusion", "job", 20, is_conclusion=True)
    await house.release("first")
    assert await turns.until(1) == ["ordinary"]


async def test_one_budgets_line_does_not_hold_up_another(full: House) -> None:
    await full.adjust("request", 200)
    turns = Turns(full)
    await turns.wait("in-job", "job", 50)
    await full.reserve("in-other", "other", 50)
    await full.settle("first", 0)
    assert await turns.until(1) == ["in-job"]


async def test_a_wait_ends_with_the_denial_when_its_time_is_up(full: House) -> None:
    error = await refused(full.reserve("c", "other", 10, max_wait=0.05))
    assert (error.reason, error.metadata["budget_id"]) == (ErrorReason.BUDGET_HELD, "request")
    assert await full.balances("request") == (0, 100)


async def test_a_wait_is_answered_before_the_callers_deadline(full: House) -> None:
    with deadline.scope(now() + 3 * MICROS):
        error = await refused(full.reserve("c", "other", 10, max_wait=30))
    assert error.reason is ErrorReason.BUDGET_HELD


async def test_a_wait_that_has_become_vain_ends_at_once(full: House) -> None:
    turns = Turns(full)
    await turns.wait("c", "other", 60)
    await full.settle("first", 50)
    assert (await refused(turns.tasks["c"])).reason is ErrorReason.BUDGET_EXCEEDED


async def test_who_gives_up_lets_those_behind_go(full: House) -> None:
    turns = Turns(full)
    await turns.wait("large", "other", 100)
    await full.settle("first", 0)
    await turns.until(1)
    await turns.wait("larger", "other", 100)
    await turns.wait("behind", "job", 30)
    await full.adjust("request", 140)
    assert turns.granted == ["large"]
    turns.tasks["larger"].cancel()
    assert await turns.until(2) == ["large", "behind"]


async def test_a_stopping_service_sends_away_who_waits(full: House) -> None:
    turns = Turns(full)
    await turns.wait("c", "other", 60)
    await full.service.stop()
    with pytest.raises(ServiceError) as caught:
        await turns.tasks["c"]
    assert caught.value.reason is ErrorReason.SERVICE_UNAVAILABLE


async def test_parallel_tools_at_a_tight_limit_take_turns(house: House) -> None:
    await house.create("request", 110)

    async def tool(name: str) -> None:
        for step in range(4):
            charge_id = f"{name}.{step}"
            await house.reserve(charge_id, "request", 40, max_wait=30, dispatch=True)
            await house.settle(charge_id, 2)

    await asyncio.gather(*(tool(f"tool-{number}") for number in range(8)))
    assert await house.balances("request") == (64, 0)


async def test_room_that_another_replica_frees_is_found_by_polling(open_house: OpenHouse, database_url: str) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("one process per SQLite file")
    here, there = await open_house(), await open_house()
    await here.create("request", 100)
    await there.reserve("first", "request", 100)
    turns = Turns(here)
    await turns.wait("c", "request", 60)
    await there.settle("first", 0)
    assert await turns.until(1) == ["c"]
    assert await there.balances("request") == (0, 60)
