"""Callers that reserve and settle in a closed loop, and how long they waited. Standard library only: a peer runs in an environment
of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

WARM_UP_SECONDS = 0.5

Calls = Callable[[int, int], Sequence[Callable[[], Awaitable[object]]]]
"""The two calls of a pair, one to be made after the other, for a given caller and step."""


@dataclass(frozen=True, slots=True)
class Result:
    """Latencies of single calls and of whole pairs; `cpu_us` is what the process that does the accounts burnt for a pair."""

    store: str
    load: str
    callers: int
    pairs_per_second: float
    p50_ms: float
    p99_ms: float
    pair_p99_ms: float
    cpu_us: float


async def measure(
    store: str, load: str, callers: int, seconds: float, calls: Calls, cpu_seconds: Callable[[], float]
) -> Result:
    """Has each caller make its pairs one after the other. `cpu_seconds` tells what was burnt so far."""
    per_call: list[float] = []
    per_pair: list[float] = []
    pairs = 0
    burnt = cpu_seconds()
    begin = time.perf_counter() + WARM_UP_SECONDS
    end = begin + seconds

    async def run(caller: int) -> None:
        nonlocal pairs
        step = 0
        while (started := time.perf_counter()) < end:
            ended = [started]
            for call in calls(caller, step):
                await call()
                ended.append(time.perf_counter())
            step += 1
            pairs += 1
            if started >= begin:
                per_call.extend(after - before for before, after in pairwise(ended))
                per_pair.append(ended[-1] - started)

    await asyncio.gather(*(run(caller) for caller in range(callers)))
    return Result(
        store=store,
        load=load,
        callers=callers,
        pairs_per_second=round(len(per_pair) / seconds, 1),
        p50_ms=quantile_ms(per_call, 0.5),
        p99_ms=quantile_ms(per_call, 0.99),
        pair_p99_ms=quantile_ms(per_pair, 0.99),
        cpu_us=round((cpu_seconds() - burnt) / pairs * 1e6, 1),
    )


def quantile_ms(seconds: list[float], share: float) -> float:
    return round(sorted(seconds)[int(len(seconds) * share)] * 1000, 2)
