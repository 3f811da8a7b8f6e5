"""This system under the same load: the house as `dbp up` starts it, five processes, durable SQLite files."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil
from dbp.coordinator.v1 import coordinator_pb2

from bench.fan.model import ENDLESS
from bench.peers.load import TOOL_SECONDS, TOOLS, Load, measure, overhead_ms
from dbp_client import AsyncClient
from dbp_client.house import House
from svc_common.endings import JobState
from svc_common.times import MICROS, from_timestamp
from tests.support.house import small_repository

Event = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult

DOERS = ("coordinator_svc", "tool_svc")
WATCHERS = 500
# Room for 64 callers with eight tools each; nothing else differs from the defaults.
ENVIRONMENT = {
    "DBP_TOOL_CONCURRENCY": "256",
    "DBP_LLM_CONCURRENT_CALLS": "256",
    "DBP_LLM_CONCURRENT_CALLS_PER_MODEL": "256",
    "DBP_BUDGET_DEFAULT_TENANT": '{"limit_usd": "1000000"}',
}


class SleepingHouse(House):
    """A house whose LLM instances sleep in place of calling models."""

    def command(self, name: str) -> list[str]:
        return [sys.executable, "-m", "bench.fan.sleepers", name] if name in DOERS else super().command(name)


@dataclass(frozen=True)
class Measured:
    """`whole` is from asking to the result; `fan_out_*` from the plan's event to the end of the last job, by the times in the event
    log, beyond the tools' own 50 ms; `first_event_*` from asking to the first event. In milliseconds."""

    whole: Load
    fan_out_p50_ms: float
    fan_out_p99_ms: float
    first_event_p50_ms: float
    first_event_p99_ms: float


@asynccontextmanager
async def opened(folder: Path, *, with_models: bool) -> AsyncIterator[tuple[House, AsyncClient]]:
    kind = House if with_models else SleepingHouse
    workspace = small_repository(folder / "workspace")
    house = kind(
        folder / "data",
        {"default": workspace},
        bedrock="bench.fan.model:answer",
        free_ports=True,
        environment=ENVIRONMENT,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(house)
        yield house, await stack.enter_async_context(AsyncClient(house.settings))


async def measure_load(client: AsyncClient, callers: int, seconds: float) -> Measured:
    fan_outs: list[float] = []
    first_events: list[float] = []

    async def request() -> None:
        began = perf_counter()
        events: list[Event] = []
        async for event in client.ask("How often are payments retried?", timeout=120, max_parallel_jobs=TOOLS):
            if not events:
                first_events.append(perf_counter() - began)
            events.append(event)
        result = events[-1].result
        if result.outcome != Result.OUTCOME_COMPLETE or len(result.jobs) != TOOLS:
            raise RuntimeError(f"a request did not do its work: {result.error.message or result}")
        fan_outs.append(fan_out_seconds(events))

    whole = await measure(request, callers, seconds)
    # The first request of each caller warmed up, in these lists as in `measure`.
    fan_outs, first_events = fan_outs[callers:], [each + TOOL_SECONDS for each in first_events[callers:]]
    return Measured(whole, *(overhead_ms(times, at) for times in (fan_outs, first_events) for at in (0.5, 0.99)))


def fan_out_seconds(events: Sequence[Event]) -> float:
    plan = next(from_timestamp(event.time) for event in events if event.HasField("plan"))
    ends = [
        from_timestamp(event.time)
        for event in events
        if event.HasField("job_update") and JobState(event.job_update.job.state).is_terminal
    ]
    return (max(ends) - plan) / MICROS


async def stream_kib(house: House, client: AsyncClient) -> dict[str, float]:
    """Memory that one stream which watches a running request takes, per service, in KiB."""
    running = client.ask(ENDLESS, timeout=120)
    accepted = await anext(running)
    before = _resident(house)
    streams = [client.watch(accepted.accepted.request_id) for _ in range(WATCHERS)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    after = _resident(house)
    for stream in streams:
        await stream.aclose()
    await running.aclose()
    return {name: round((after[name] - before[name]) / WATCHERS / 1024, 1) for name in before}


def _resident(house: House) -> dict[str, int]:
    return {name: psutil.Process(house.process_id(name)).memory_info().rss for name in ("coordinator_svc", "jobs_svc")}
