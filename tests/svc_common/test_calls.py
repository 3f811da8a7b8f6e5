"""The manners of every service, seen from a client: errors, validation, auth, deadlines, traces, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from svc_common import deadline, telemetry
from svc_common.channel import call, open_channel, resumed, stream
from svc_common.errors import ErrorReason, ServiceError
from svc_common.server import GrpcServer, StartupError, service_name
from svc_common.server_interceptor import Context
from svc_common.settings import CommonSettings, ServiceSettings, SettingsError
from svc_common.times import MICROS, now
from tests.support.traces import provider, recorded_spans

provider()


class ExampleSettings(ServiceSettings):
    table = "example"


class Example(budget_pb2_grpc.BudgetServiceServicer):
    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.stream_closed = asyncio.Event()

    async def GetBudget(self, request: budget_pb2.GetBudgetRequest, context: Context) -> budget_pb2.GetBudgetResponse:
        self.seen = {"remaining": deadline.remaining(), "trace": telemetry.current_trace_id()}
        match request.budget_id:
            case "denied":
                raise ServiceError(
                    ErrorReason.BUDGET_HELD, "held by others", retry_after=1.5, metadata={"budget_id": "tenant/a/all"}
                )
            case "bug":
                raise KeyError("secret detail")
            case "slow":
                await asyncio.Event().wait()
        return budget_pb2.GetBudgetResponse()

    async def WatchThresholds(
        self, request: budget_pb2.WatchThresholdsRequest, context: Context
    ) -> AsyncIterator[budget_pb2.WatchThresholdsResponse]:
        try:
            yield budget_pb2.WatchThresholdsResponse(percent=50)
            if request.budget_id == "broken":
                raise ServiceError(ErrorReason.WATCHER_TOO_SLOW, "too slow")
            self.seen = {"trace": telemetry.current_trace_id()}
            while request.budget_id == "endless":
                yield budget_pb2.WatchThresholdsResponse(percent=50)
            await asyncio.Event().wait()
        finally:
            self.stream_closed.set()


class House:
    def __init__(self, **common: Any) -> None:
        self.common = CommonSettings(**common)
        self.example = Example()  # type: ignore[abstract]  # the rest stays unimplemented
        self.server = GrpcServer(ExampleSettings(common=self.common, drain_seconds=0))
        budget_pb2_grpc.add_BudgetServiceServicer_to_server(self.example, self.server.grpc_server)

    async def __aenter__(self) -> House:
        await self.server.start([service_name(budget_pb2, "BudgetService")])
        self.channel = open_channel(f"127.0.0.1:{self.server.port}", self.common)
        self.stub = budget_pb2_grpc.BudgetServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close(None)
        await self.server.stop()

    async def get(self, budget_id: str, **options: Any) -> budget_pb2.GetBudgetResponse:
        return await call(self.stub.GetBudget, budget_pb2.GetBudgetRequest(budget_id=budget_id), **options)


async def test_an_error_arrives_as_it_was_raised() -> None:
    async with House() as house:
        with pytest.raises(ServiceError) as caught:
            await house.get("denied")
    error = caught.value
    assert (error.reason, error.message) == (ErrorReason.BUDGET_HELD, "held by others")
    assert (error.retry_after, error.metadata) == (1.5, {"budget_id": "tenant/a/all"})
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    assert error.__cause__.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_bug_is_internal_and_keeps_its_text_to_itself() -> None:
    async with House() as house:
        with pytest.raises(ServiceError) as caught:
            await house.get("bug")
    assert caught.value.reason is ErrorReason.INTERNAL
    assert "secret" not in caught.value.message


async def test_a_broken_rule_names_the_field() -> None:
    async with House() as house:
        with pytest.raises(ServiceError) as caught:
            await house.get("")
    assert caught.value.reason is ErrorReason.INVALID_ARGUMENT
    assert [violation.field for violation in caught.value.violations] == ["budget_id"]


async def test_without_the_token_only_health_answers() -> None:
    async with House(auth_token="right") as house:
        await house.get("any")
        wrong = open_channel(f"127.0.0.1:{house.server.port}", CommonSettings(auth_token="wrong"))
        with pytest.raises(ServiceError) as caught:
            await call(budget_pb2_grpc.BudgetServiceStub(wrong).GetBudget, budget_pb2.GetBudgetRequest(budget_id="any"))
        assert caught.value.reason is ErrorReason.UNAUTHENTICATED
        health = await health_pb2_grpc.HealthStub(wrong).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        await wrong.close(None)


async def test_the_callers_deadline_reaches_the_callee_and_bounds_it() -> None:
    async with House() as house:
        with deadline.scope(now() + 3 * MICROS):
            await house.get("any", timeout=60)
        assert 0 < house.example.seen["remaining"] < 3
        with deadline.scope(now() - 1), pytest.raises(ServiceError) as caught:
            await house.get("any")
        assert caught.value.reason is ErrorReason.DEADLINE_EXCEEDED
        with pytest.raises(ServiceError) as caught:
            await house.get("slow", timeout=0.05)
        assert caught.value.reason is ErrorReason.DEADLINE_EXCEEDED


async def test_a_call_without_deadline_gets_the_servers() -> None:
    async with House() as house:
        await house.get("any")
    assert 0 < house.example.seen["remaining"] <= ExampleSettings.model_fields["max_call_seconds"].default


async def test_the_trace_goes_on_in_the_callee() -> None:
    async with House() as house:
        with telemetry.span("caller"):
            expected = telemetry.current_trace_id()
            await house.get("any")
    assert house.example.seen["trace"] == expected != ""


async def test_leaving_a_stream_closes_it_on_the_server() -> None:
    async with House() as house:
        request = budget_pb2.WatchThresholdsRequest(budget_id="any")
        async with stream(house.stub.WatchThresholds(request)) as responses:
            async for response in responses:
                assert response.percent == 50
                break
        await asyncio.wait_for(house.example.stream_closed.wait(), 5)


async def test_a_traced_stream_that_is_left_ends_its_span_without_complaint(caplog: pytest.LogCaptureFixture) -> None:
    with recorded_spans() as spans:
        async with House() as house:
            with telemetry.span("caller"):
                expected = telemetry.current_trace_id()
                rpc = house.stub.WatchThresholds(budget_pb2.WatchThresholdsRequest(budget_id="endless"))
                await rpc.read()
            rpc.cancel()
            await asyncio.wait_for(house.example.stream_closed.wait(), 5)
            assert house.example.seen["trace"] == expected
    assert any(span.name.endswith("WatchThresholds") for span in spans.get_finished_spans())
    assert "detach" not in caplog.text


async def test_a_stream_that_breaks_tells_why_after_what_it_sent() -> None:
    async with House() as house:
        request = budget_pb2.WatchThresholdsRequest(budget_id="broken")
        received = []

        async def watch() -> None:
            async with stream(house.stub.WatchThresholds(request)) as responses:
                async for response in responses:
                    received.append(response.percent)

        with pytest.raises(ServiceError) as caught:
            await watch()
    assert (received, caught.value.reason) == ([50], ErrorReason.WATCHER_TOO_SLOW)


async def test_a_stream_begun_after_the_deadline_fails_as_late() -> None:
    async with House() as house:
        with deadline.scope(now() - 1), pytest.raises(ServiceError) as caught:
            async with stream(house.stub.WatchThresholds(budget_pb2.WatchThresholdsRequest(budget_id="any"))) as late:
                await anext(late)
    assert caught.value.reason is ErrorReason.DEADLINE_EXCEEDED


async def test_certificates_that_cannot_be_read_are_named() -> None:
    with pytest.raises(SettingsError, match=r"DBP_TLS_CA_FILE.*nowhere\.pem"):
        open_channel("127.0.0.1:1", CommonSettings(tls_ca_file=Path("nowhere.pem")))


async def test_a_taken_port_stops_the_start() -> None:
    async with House() as house:
        second = GrpcServer(ExampleSettings(listen=f"127.0.0.1:{house.server.port}"))
        with pytest.raises(StartupError, match="in use"):
            await second.start([])


async def test_patience_bridges_a_callee_that_comes_late() -> None:
    async with House() as house:
        port = house.server.port
    late = House()
    late.server = GrpcServer(ExampleSettings(listen=f"127.0.0.1:{port}", drain_seconds=0))
    budget_pb2_grpc.add_BudgetServiceServicer_to_server(late.example, late.server.grpc_server)
    channel = open_channel(f"127.0.0.1:{port}", late.common)
    stub = budget_pb2_grpc.BudgetServiceStub(channel)
    request = budget_pb2.GetBudgetRequest(budget_id="any")
    with pytest.raises(ServiceError) as caught:
        await call(stub.GetBudget, request)
    assert caught.value.reason is ErrorReason.SERVICE_UNAVAILABLE
    waiting = asyncio.create_task(call(stub.GetBudget, request, patience=30))
    async with late:
        await waiting
    await channel.close(None)


class Rings(budget_pb2_grpc.BudgetServiceServicer):
    """A watch that says nothing for a while, breaks, and goes on when it is opened again."""

    def __init__(self) -> None:
        self.opened = 0

    async def WatchThresholds(
        self, request: budget_pb2.WatchThresholdsRequest, context: Context
    ) -> AsyncIterator[budget_pb2.WatchThresholdsResponse]:
        self.opened += 1
        if self.opened == 1:
            await asyncio.sleep(QUIET_SECONDS)
            raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "stopping")
        yield budget_pb2.WatchThresholdsResponse(percent=50)


QUIET_SECONDS = 0.3


async def test_a_watch_that_breaks_after_a_quiet_time_is_taken_up_again() -> None:
    server = GrpcServer(ExampleSettings(drain_seconds=0))
    budget_pb2_grpc.add_BudgetServiceServicer_to_server(Rings(), server.grpc_server)  # type: ignore[abstract]
    await server.start([])
    channel = open_channel(f"127.0.0.1:{server.port}", CommonSettings())
    stub = budget_pb2_grpc.BudgetServiceStub(channel)
    watch = resumed(
        lambda _: stub.WatchThresholds(budget_pb2.WatchThresholdsRequest(budget_id="any")),
        lambda response: int(response.percent),
        0,
        patience=QUIET_SECONDS / 2,
    )
    assert [response.percent async for response in watch] == [50]
    await channel.close(None)
    await server.stop()
