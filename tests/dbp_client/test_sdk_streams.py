"""The SDK over real connections: what it does when the other side is late, goes away or says no, and when its caller leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc

from coordinator_svc.jobs_client import JobsClient
from dbp_client import (
    AsyncClient,
    BadRequest,
    Client,
    Conflict,
    LimitReached,
    NotFound,
    RequestEvent,
    ServiceError,
    Unreachable,
)
from dbp_client.house import free_port
from svc_common.errors import ErrorReason
from svc_common.server import GrpcServer
from svc_common.settings import CommonSettings, ServiceSettings
from tests.scenarios.scripts import ANSWER, script
from tests.support.house import house

STALLED = """
  - when: {template: "*"}
    reply: {text: "never", fault: {stall: true, after_chunks: 0}}
"""


class FrontSettings(ServiceSettings):
    table = "front"


class Front(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """A coordinator with one finished request of six events, which breaks each stream after so many of them."""

    def __init__(self, breaks_after: int = 100) -> None:
        self.asked: list[coordinator_pb2.ProcessRequestRequest] = []
        self.cancelled: list[str] = []
        self.breaks_after = breaks_after

    def _events(self, after: int) -> list[RequestEvent]:
        events = [RequestEvent(sequence=number, first_sequence=number) for number in range(1, 7)]
        events[0].accepted.request_id = "r"
        for event in events[1:-1]:
            event.answer_text.text = "x"
        events[-1].result.answer = "xxxx"
        return events[after:]

    async def ProcessRequest(
        self, request: coordinator_pb2.ProcessRequestRequest, context: Any
    ) -> AsyncIterator[coordinator_pb2.ProcessRequestResponse]:
        self.asked.append(coordinator_pb2.ProcessRequestRequest.FromString(request.SerializeToString()))
        if reason := _REASONS.get(request.query):
            raise ServiceError(reason, "no", retry_after=3)
        for event in self._events(request.after_sequence)[: self.breaks_after]:
            yield coordinator_pb2.ProcessRequestResponse(event=event)
        if self.breaks_after < 6 - request.after_sequence:
            raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "stopping")

    async def CancelRequest(
        self, request: coordinator_pb2.CancelRequestRequest, context: Any
    ) -> coordinator_pb2.CancelRequestResponse:
        self.cancelled.append(request.request_id)
        return coordinator_pb2.CancelRequestResponse()

    # Nobody asks for these here.
    GetRequest = ListRequests = WatchRequest = None  # type: ignore[assignment]


_REASONS = {
    "bad": ErrorReason.INVALID_ARGUMENT,
    "nowhere": ErrorReason.WORKSPACE_NOT_FOUND,
    "taken": ErrorReason.REQUEST_CONFLICT,
    "busy": ErrorReason.OVERLOADED,
}


@asynccontextmanager
async def serving(front: Front, port: int = 0) -> AsyncIterator[CommonSettings]:
    server = GrpcServer(FrontSettings(listen=f"127.0.0.1:{port}", drain_seconds=0))
    coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(front, server.grpc_server)
    await server.start([])
    try:
        yield CommonSettings(coordinator_address=f"127.0.0.1:{server.port}")
    finally:
        await server.stop()


async def test_a_stream_that_breaks_again_and_again_is_taken_up_without_gap_or_repetition() -> None:
    front = Front(breaks_after=2)
    async with serving(front) as settings, AsyncClient(settings) as client:
        events = [event async for event in client.ask("q", timeout=20, max_cost="0.05")]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6]
    assert [request.after_sequence for request in front.asked] == [0, 2, 4]
    assert len({request.request_id for request in front.asked}) == 1
    assert not front.cancelled


async def test_a_coordinator_that_is_not_there_yet_is_waited_for() -> None:
    port = free_port()
    settings = CommonSettings(coordinator_address=f"127.0.0.1:{port}")
    async with AsyncClient(settings, patience=30) as client, aclosing(client.ask("q")) as events:
        asking = asyncio.create_task(anext(events))
        async with AsyncClient(settings, patience=0.2) as hasty:
            with pytest.raises(Unreachable):  # by then the first tries of the patient one have failed, too
                await anext(hasty.ask("q"))
        async with serving(Front(), port):
            assert (await asking).sequence == 1


async def test_a_coordinator_that_is_still_away_at_the_deadline_is_unreachable_and_not_late() -> None:
    async with AsyncClient(CommonSettings(coordinator_address=f"127.0.0.1:{free_port()}"), patience=30) as client:
        with pytest.raises(Unreachable):
            await anext(client.ask("q", timeout=1))


async def test_leaving_cancels_unless_the_request_is_to_go_on() -> None:
    front = Front()
    async with serving(front) as settings, AsyncClient(settings, patience=7) as client:
        for goes_on in (False, True):
            events = client.ask("q", request_id=f"goes-on-{goes_on}", continue_when_detached=goes_on)
            await anext(events)
            await events.aclose()
    assert front.cancelled == ["goes-on-False"]
    assert [request.continue_when_detached for request in front.asked] == [False, True]
    assert front.asked[0].reattach_within.seconds == 7


@pytest.mark.parametrize(
    ("query", "kind"), [("bad", BadRequest), ("nowhere", NotFound), ("taken", Conflict), ("busy", LimitReached)]
)
async def test_errors_are_told_apart(query: str, kind: type[ServiceError]) -> None:
    async with serving(Front()) as settings, AsyncClient(settings) as client:
        with pytest.raises(kind) as caught:
            await anext(client.ask(query))
    assert (caught.value.message, caught.value.retry_after) == ("no", 3)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


@pytest.mark.parametrize("options", [{"timeout": 0.5}, {"timeout": 301}, {"max_cost": "much"}])
async def test_what_makes_no_sense_is_refused_before_it_is_sent(options: Any) -> None:
    async with AsyncClient(CommonSettings(coordinator_address="127.0.0.1:1")) as client:
        with pytest.raises(BadRequest):
            await anext(client.ask("q", **options))


async def test_the_synchronous_client_does_the_same() -> None:
    front = Front(breaks_after=4)

    def use(settings: CommonSettings) -> list[int]:
        with Client(settings) as client:
            left = client.ask("q", request_id="left")
            next(left)
            left.close()
            with pytest.raises(NotFound):
                next(client.ask("nowhere"))
            return [event.sequence for event in client.ask("q", request_id="whole")]

    async with serving(front) as settings:
        assert await asyncio.to_thread(use, settings) == [1, 2, 3, 4, 5, 6]
    assert front.cancelled[0] == "left"
    assert "whole" not in front.cancelled


def test_the_synchronous_client_has_all_methods_of_the_other() -> None:
    def methods(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)


class StalledFront(Front):
    """Says that it has accepted a request, and nothing more."""

    async def ProcessRequest(
        self, request: coordinator_pb2.ProcessRequestRequest, context: Any
    ) -> AsyncIterator[coordinator_pb2.ProcessRequestResponse]:
        yield coordinator_pb2.ProcessRequestResponse(event=self._events(0)[0])
        await asyncio.Event().wait()


async def test_an_interrupt_that_hits_before_the_wait_for_the_next_event_cancels_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front = StalledFront()
    schedule = asyncio.run_coroutine_threadsafe
    scheduled = 0

    def interrupted(work: Any, loop: Any) -> Any:
        nonlocal scheduled
        scheduled += 1
        running = schedule(work, loop)
        if scheduled == 3:  # after the connection and the first event
            raise KeyboardInterrupt
        return running

    def use(settings: CommonSettings) -> None:
        with Client(settings) as client, pytest.raises(KeyboardInterrupt):
            list(client.ask("q", request_id="asked"))

    async with serving(front) as settings:
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
        await asyncio.to_thread(use, settings)
    assert front.cancelled == ["asked"]


ASK_SYNCHRONOUSLY = """
import sys
from dbp_client import Client
with Client() as client:
    for event in client.ask("Where?", request_id="asked", timeout=60):
        print(event.sequence, flush=True)
"""


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)])
async def test_a_caller_that_is_interrupted_or_killed_leaves_no_work_behind(
    number: signal.Signals, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch, script(STALLED)) as opened:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASK_SYNCHRONOUSLY,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"DBP_COORDINATOR_ADDRESS": opened.common.coordinator_address},
        )  # fmt: skip
        assert process.stdout is not None
        assert await process.stdout.readline()
        process.send_signal(number)
        _, err = await process.communicate()
        # Not by its coordinator, which would take us for the caller that has come back.
        async for events in JobsClient(opened.client.jobs, 5).follow("asked", 0):
            last = events[-1]
        await opened.bedrock.wait_idle(10)
    assert b"already running" not in err
    assert process.returncode == exit_code
    assert last.state_change.reason == common_pb2.END_REASON_CANCELLED


async def test_a_caller_that_comes_back_in_time_finds_its_request_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = ANSWER.replace("chunk_chars: 8", "chunk_chars: 8, chunk_s: 0.2")
    async with house(tmp_path, monkeypatch, script(slow)) as opened:
        request = coordinator_pb2.ProcessRequestRequest(query="Where?", request_id="asked")
        request.reattach_within.FromSeconds(30)
        rpc = opened.client.coordinator.ProcessRequest(request, timeout=30)
        first = await anext(aiter(rpc))
        rpc.cancel()
        request.after_sequence = first.event.sequence
        rest = [response.event async for response in opened.client.coordinator.ProcessRequest(request, timeout=30)]
    assert [event.sequence for event in rest] == list(range(first.event.sequence + 1, rest[-1].sequence + 1))
    assert rest[-1].result.outcome == coordinator_pb2.RequestResult.OUTCOME_COMPLETE
