"""Who gets a place for a model call, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from llm.gateway import pause_before_retry
from llm.metering import Denied, Reservation
from llm.runner import LlmRunner
from llm.slots import Slots
from llm.templates import Template
from local_bedrock.backends.script import Reply, parse_script
from local_bedrock.server import RunningEndpoint
from svc_common.endings import EndReason
from svc_common.errors import ErrorReason
from tests.llm.support import ArithmeticMeter, RememberingHost, make_task, settings, until

Make = Callable[..., LlmRunner]


async def test_places_go_by_priority_then_by_age_and_none_is_lost_to_who_leaves() -> None:
    slots = Slots(1)
    order: list[str] = []

    async def wait(name: str, priority: int) -> None:
        async with slots.taken(priority):
            order.append(name)

    await slots.acquire()
    waiting = {
        name: asyncio.create_task(wait(name, priority))
        for name, priority in (("low", 0), ("old", 1), ("leaves", 5), ("young", 1))
    }
    await asyncio.sleep(0)
    waiting["leaves"].cancel()
    slots.release()
    await asyncio.gather(*waiting.values(), return_exceptions=True)

    assert order == ["old", "young", "low"]

    await slots.acquire()
    given = asyncio.create_task(wait("given", 0))
    await asyncio.sleep(0)
    slots.release()
    given.cancel()  # in the very moment in which it was given the place
    await asyncio.gather(given, return_exceptions=True)
    async with asyncio.timeout(10):
        await wait("next", 0)


async def test_who_waits_for_money_keeps_no_other_from_the_model(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template
) -> None:
    endpoint.load_script(lambda _: Reply(text="hi"))

    class PoorMeter(ArithmeticMeter):
        waiting = asyncio.Event()
        gone = asyncio.Event()

        async def reserve(self, reservation: Reservation) -> int:
            if reservation.budget_id == "poor":
                self.waiting.set()
                await self.gone.wait()
                raise Denied(ErrorReason.BUDGET_HELD, "held by others", available=None, retry_after=1)
            return await super().reserve(reservation)

    meter = PoorMeter()
    runner = make_runner(meter, llm_settings=settings(concurrent_calls_per_model=1))
    poor = asyncio.create_task(runner.run(make_task(free_text, budget_id="poor"), RememberingHost()))
    await meter.waiting.wait()

    rich = await runner.run(make_task(free_text, budget_id="rich"), RememberingHost())

    assert (rich.text, poor.done()) == ("hi", False)
    meter.gone.set()
    assert (await poor).reason is EndReason.BUDGET_EXCEEDED


async def test_a_call_that_waits_for_its_place_keeps_its_charge_and_gives_it_back_when_it_leaves(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{reply: {text: late, first_token_s: 60}}]"))

    class LeasingMeter(ArithmeticMeter):
        def __init__(self) -> None:
            super().__init__()
            self.renewed: list[str] = []

        async def renew(self, charge_id: str, lease: float) -> None:
            self.renewed.append(charge_id)

    meter = LeasingMeter()
    runner = make_runner(meter, llm_settings=settings(concurrent_calls_per_model=1, charge_lease_seconds=3))
    calling = [
        asyncio.create_task(runner.run(make_task(free_text, instance_id=name), RememberingHost()))
        for name in ("speaks", "queues")
    ]
    await until(lambda: len(meter.holds) == 2)
    queued = next(charge_id for charge_id in meter.holds if charge_id.startswith("queues"))
    await until(lambda: queued in meter.renewed)

    calling[1].cancel()
    await asyncio.gather(calling[1], return_exceptions=True)
    await until(lambda: meter.holds[queued].cost is not None)

    assert meter.holds[queued].cost == 0
    assert len(endpoint.invoice.records()) == 1
    calling[0].cancel()
    await asyncio.gather(calling[0], return_exceptions=True)


@pytest.mark.parametrize("failures", [1, 4])
def test_a_pause_is_the_hint_and_a_random_part_of_a_bound_that_doubles(failures: int) -> None:
    limits = settings(backoff_seconds=0.5, backoff_max_seconds=3.0)
    bound = {1: 0.5, 4: 3.0}[failures]
    pause = partial(pause_before_retry, failures, settings=limits)

    assert pause(None, jitter=lambda low, high: low) == 0.0
    assert pause(None, jitter=lambda low, high: high) == bound
    assert pause(7.0, jitter=lambda low, high: high) == 7.0 + bound
