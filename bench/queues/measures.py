"""What is measured of every queue, and how. Knows no queue, so that it runs in the peers' environment as well."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

ENQUEUE_BATCH = 100
WORKERS = (1, 16, 64)
CALLERS = 16
START_SECONDS = 15.0
_LOOK_SECONDS = 0.005


@dataclass
class Figures:
    """Jobs per second, and milliseconds from the call that enqueues a job to the worker that has it."""

    single: float = 0.0  # CALLERS callers, one job a call
    batched: float = 0.0  # one caller, ENQUEUE_BATCH jobs a call
    drain_1: float = 0.0  # by so many workers that take one job at a time
    drain_16: float = 0.0
    drain_64: float = 0.0
    drain_batched: float = 0.0  # by workers that take many
    pickup_p50: float = 0.0
    pickup_p99: float = 0.0


@dataclass(frozen=True)
class Extent:
    """How long to measure; a quick run is for a look, not for a comparison."""

    seconds: float
    backlog: int
    pickups: int


QUICK = Extent(seconds=0.8, backlog=1_000, pickups=60)
FULL = Extent(seconds=4.0, backlog=10_000, pickups=400)


async def rate(call: Callable[[], Awaitable[int]], callers: int, seconds: float) -> float:
    """Jobs per second that `callers` make with a call that returns how many it did."""
    began = time.perf_counter()
    done = 0

    async def run() -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            number = await call()  # not within the sum: the others add to it meanwhile
            done += number

    await asyncio.gather(*(run() for _ in range(callers)))
    return done / (time.perf_counter() - began)


async def drained(count: Callable[[], int], wanted: int, seconds: float, work: Awaitable[object]) -> float:
    """Jobs per second while `work` drains a backlog of `wanted`, for `seconds` at most; `count` says how many are done.

    The time runs from the first job that is done: how long workers take to start is no figure of the queue.
    """
    task = asyncio.ensure_future(work)
    for _ in range(int(START_SECONDS / _LOOK_SECONDS)):
        if count() or task.done():
            break
        await asyncio.sleep(_LOOK_SECONDS)
    before, began = count(), time.perf_counter()
    while count() < wanted and time.perf_counter() - began < seconds and not task.done():
        await asyncio.wait({task}, timeout=_LOOK_SECONDS)
    speed = (count() - before) / (time.perf_counter() - began)
    task.cancel()
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, Exception):  # a queue that breaks must not pass for a slow one
        raise outcome
    return speed


def percentile(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def peer_main(measure: Callable[[str, Extent], Awaitable[Figures]]) -> None:
    """The command of a peer's module: prints its figures as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()

    async def run() -> Figures:
        return await measure(arguments.url, QUICK if arguments.quick else FULL)

    figures = asyncio.run(run())
    print(json.dumps(asdict(figures)))
