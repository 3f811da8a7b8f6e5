"""Callers that leave, come back, or are left by a coordinator that stops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2

import coordinator_svc.server
from coordinator_svc.jobs_client import JobsClient
from coordinator_svc.settings import CoordinatorSettings
from dbp_client import AsyncClient
from svc_common.endings import JobState
from svc_common.times import duration_from_seconds
from tests.scenarios.conftest import OpenHouse
from tests.scenarios.scripts import ANSWER
from tests.support.house import TestHouse

STALLED = """
  - when: {template: "*"}
    reply: {text: "never", fault: {stall: true, after_chunks: 0}}
"""
SLOW_ANSWER = ANSWER.replace("chunk_chars: 8", "chunk_chars: 2, chunk_s: 0.02")


async def call(client: AsyncClient, request_id: str, reattach_within: float = 0.0) -> Any:
    """A caller that has seen its request accepted."""
    request = coordinator_pb2.ProcessRequestRequest(request_id=request_id, query="Where?")
    request.reattach_within.CopyFrom(duration_from_seconds(reattach_within))
    stream = client.coordinator.ProcessRequest(request, timeout=60)
    assert (await anext(aiter(stream))).event.accepted.request_id == request_id
    return stream


async def ended(opened: TestHouse, request_id: str) -> jobs_pb2.StateChange:
    """How a request ends, seen by nobody that its coordinator knows of."""
    async for events in JobsClient(opened.client.jobs, 5.0).follow(request_id, 0):
        last = events[-1]
    return last.state_change


async def test_a_request_is_cancelled_when_the_last_of_its_callers_leaves(open_house: OpenHouse) -> None:
    async with open_house(STALLED) as opened:
        first = await call(opened.client, "shared")
        second = await call(opened.client, "shared")
        second.cancel()
        third = await call(opened.client, "shared")  # by now the second one's leave is known
        assert JobState((await opened.client.get("shared")).state) is JobState.RUNNING
        for caller in (first, third):
            caller.cancel()
        assert (await ended(opened, "shared")).message == "the caller left"


async def test_a_caller_that_said_so_is_waited_for(open_house: OpenHouse) -> None:
    async with open_house(SLOW_ANSWER) as opened:
        (await call(opened.client, "lost", reattach_within=30)).cancel()
        events = [event async for event in opened.client.watch("lost", 1)]
    assert events[-1].result.outcome == coordinator_pb2.RequestResult.OUTCOME_COMPLETE


@pytest.mark.parametrize("comes_back", [False, True])
async def test_a_caller_that_is_gone_for_good_takes_its_work_along(open_house: OpenHouse, comes_back: bool) -> None:
    async with open_house(STALLED) as opened:
        (await call(opened.client, "gone", reattach_within=0.3)).cancel()
        if comes_back:
            watch = opened.client.coordinator.WatchRequest(coordinator_pb2.WatchRequestRequest(request_id="gone"))
            await anext(aiter(watch))
            watch.cancel()
        assert (await ended(opened, "gone")).reason == common_pb2.END_REASON_CANCELLED


async def test_a_caller_that_leaves_while_its_request_is_made_leaves_no_work(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, has_left = asyncio.Event(), asyncio.Event()
    create = JobsClient.create

    async def slow_create(self: JobsClient, *arguments: Any, **options: Any) -> Any:
        created = await create(self, *arguments, **options)
        made.set()
        await has_left.wait()
        return created

    async with open_house(STALLED) as opened:
        monkeypatch.setattr(JobsClient, "create", slow_create)
        request = coordinator_pb2.ProcessRequestRequest(request_id="early", query="Where?")
        leaving = opened.client.coordinator.ProcessRequest(request, timeout=60)
        await made.wait()
        leaving.cancel()
        # Calls of one connection arrive in order.
        await opened.client.get("early")
        has_left.set()
        assert (await ended(opened, "early")).message == "the caller left"


async def test_a_coordinator_that_stops_leaves_its_requests_to_another(open_house: OpenHouse) -> None:
    async with open_house(SLOW_ANSWER) as opened:
        stopping = await coordinator_svc.server.start(
            CoordinatorSettings(common=opened.common, listen="127.0.0.1:0", drain_seconds=0.2)
        )
        address = {"coordinator_address": f"127.0.0.1:{stopping.port}"}
        async with AsyncClient(opened.common.model_copy(update=address)) as client:
            callers = [await call(client, f"moved-{number}") for number in range(5)]
            await stopping.stop()
        assert len(callers) == 5  # they have not left
        for number in range(5):
            events = [event async for event in opened.client.watch(f"moved-{number}")]
            assert events[-1].result.outcome == coordinator_pb2.RequestResult.OUTCOME_COMPLETE
