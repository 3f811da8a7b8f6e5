"""Thresholds: told once each, those passed already first, from wherever they pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from dbp.budget.v1 import budget_pb2

from svc_common.channel import stream
from svc_common.errors import ErrorReason, ServiceError
from tests.budget_svc.house import House, refused

OpenHouse = Callable[..., Awaitable[House]]


async def told(responses: AsyncIterator[budget_pb2.WatchThresholdsResponse], count: int) -> list[tuple[str, int]]:
    async with asyncio.timeout(20):
        return [(each.budget_id, each.percent) for each in [await anext(responses) for _ in range(count)]]


async def test_each_threshold_is_told_once_and_those_passed_already_first(open_house: OpenHouse) -> None:
    house = await open_house(poll_seconds=60)
    await house.create("request", 1000)
    await house.create("job", 100, parent_id="request")
    await house.reserve("a", "job", 49)
    await house.reserve("b", "job", 10)
    await house.settle("b", 10)
    request = budget_pb2.WatchThresholdsRequest(budget_id="request")
    async with stream(house.stub.WatchThresholds(request)) as responses:
        assert await told(responses, 1) == [("job", 50)]
        await house.settle("a", 20)
        await house.reserve("c", "job", 30)  # 60 % again, told before
        await house.reserve("d", "job", 40)
        assert await told(responses, 2) == [("job", 80), ("job", 100)]
        await house.adjust("job", 300)
        await house.adjust("request", 190)
        assert await told(responses, 1) == [("request", 50)]
        await house.reserve("e", "job", 90)
        assert sorted(await told(responses, 3)) == [("job", 50), ("request", 80), ("request", 100)]


async def test_a_call_that_used_more_than_it_had_reserved_passes_thresholds_too(open_house: OpenHouse) -> None:
    house = await open_house(poll_seconds=60)
    await house.create("request", 100)
    await house.reserve("c", "request", 40, dispatch=True)
    request = budget_pb2.WatchThresholdsRequest(budget_id="request")
    async with stream(house.stub.WatchThresholds(request)) as responses:
        await house.settle("c", 95)
        assert await told(responses, 2) == [("request", 50), ("request", 80)]


async def test_a_limit_that_returns_is_told_of_anew(open_house: OpenHouse) -> None:
    house = await open_house(poll_seconds=60)
    await house.create("request", 100)
    await house.create("other", 100, parent_id="request")
    await house.reserve("c", "request", 50)
    request = budget_pb2.WatchThresholdsRequest(budget_id="request")
    async with stream(house.stub.WatchThresholds(request)) as responses:
        assert await told(responses, 1) == [("request", 50)]
        await house.adjust("request", 200)
        await house.reserve("d", "other", 50)  # another threshold, so that the watch has looked at the raised limit
        assert sorted(await told(responses, 2)) == [("other", 50), ("request", 50)]
        await house.adjust("request", 100)
        assert await told(responses, 3) == [("request", 50), ("request", 80), ("request", 100)]


async def test_what_passes_in_another_replica_is_told_too(open_house: OpenHouse, database_url: str) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("one process per SQLite file")
    here, there = await open_house(), await open_house()
    await here.create("request", 100)
    request = budget_pb2.WatchThresholdsRequest(budget_id="request")
    async with stream(here.stub.WatchThresholds(request)) as responses:
        await there.reserve("a", "request", 50)
        assert await told(responses, 1) == [("request", 50)]


async def test_a_watch_of_nothing_fails_and_one_of_a_stopping_service_ends(house: House) -> None:
    async def watch(budget_id: str) -> None:
        request = budget_pb2.WatchThresholdsRequest(budget_id=budget_id)
        async with stream(house.stub.WatchThresholds(request)) as responses:
            await anext(responses)
            started.set()
            await anext(responses)

    started = asyncio.Event()
    assert (await refused(watch("none"))).reason is ErrorReason.BUDGET_NOT_FOUND
    await house.create("request", 100)
    await house.reserve("a", "request", 50)
    watching = asyncio.create_task(watch("request"))
    await asyncio.wait_for(started.wait(), 20)
    await house.service.stop()
    with pytest.raises(ServiceError) as caught:
        await watching
    assert caught.value.reason is ErrorReason.SERVICE_UNAVAILABLE
