"""Callers in a closed loop, and how long they waited. Standard library only: the peers run in an environment of their own."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

TOOLS = 8
TOOL_SECONDS = 0.05

Request = Callable[[], Awaitable[object]]
"""One request: eight tools of 50 ms at the same time, and back."""


@dataclass(frozen=True)
class Load:
    """What so many callers got, each asking again as soon as it had its answer. The overhead is all beyond the tools' 50 ms."""

    callers: int
    requests_per_second: float
    overhead_p50_ms: float
    overhead_p99_ms: float


async def measure(request: Request, callers: int, seconds: float) -> Load:
    """Each caller asks once to warm up, and then at least once more, for as long as there is time."""
    await asyncio.gather(*(request() for _ in range(callers)))
    took: list[float] = []
    begin = time.perf_counter()

    async def call() -> None:
        while not took or time.perf_counter() < begin + seconds:
            started = time.perf_counter()
            await request()
            took.append(time.perf_counter() - started)

    await asyncio.gather(*(call() for _ in range(callers)))
    elapsed = time.perf_counter() - begin
    return Load(callers, round(len(took) / elapsed, 1), overhead_ms(took, 0.5), overhead_ms(took, 0.99))


def overhead_ms(took: Sequence[float], at: float) -> float:
    """Seconds in, milliseconds beyond the tools' own time out, at a quantile."""
    return round((sorted(took)[min(len(took) - 1, int(len(took) * at))] - TOOL_SECONDS) * 1000, 1)


def arguments() -> argparse.Namespace:
    """Of a peer's process: `seconds`, `callers` (a list), `folder` for its files, `url` of its database."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--callers", type=lambda text: [int(each) for each in text.split(",")], required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--url", default="")
    return parser.parse_args()


async def measure_all(request: Request, options: argparse.Namespace) -> None:
    """Measures with each number of callers and prints a line of JSON for each."""
    for callers in options.callers:
        print(json.dumps(asdict(await measure(request, callers, options.seconds))), flush=True)
