"""Finding out what other replicas have committed: at once by their signals, and by polling whatever signals may be lost."""

from __future__ import annotations

import asyncio
import math
import sys
from contextlib import suppress

from jobs_svc.job import parse_lane
from jobs_svc.low_water import LowWater
from jobs_svc.queue import JobQueue
from jobs_svc.signals import Signal
from svc_common.times import MICROS, Clock

RECOUNT_SECONDS = 5.0
SHORTEST_PAUSE_SECONDS = 0.05
# Far longer than a commit takes to become visible and than clocks differ.
RECENT = 60 * MICROS


class CatchUp:
    """Lets those who wait in this replica know what happened in others."""

    def __init__(self, queue: JobQueue, low_water: LowWater, clock: Clock, *, poll_seconds: float) -> None:
        self._queue = queue
        self._low_water = low_water
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._workers: set[str] = set()  # that have something to stop
        self._polls_soon = False
        self._hinted = asyncio.Event()

    def hint(self, signal: Signal) -> None:
        """Acts on the signal of another replica."""
        queue = self._queue
        queue.counters.add(signal.moved)
        if signal.readied:
            self._low_water.forget()
        for kind, number in signal.readied.items():
            queue.waiters.wake(kind, number)
        queue.make_room(signal.freed)
        queue.logs.touch(signal.roots)
        for worker_id in signal.retired:
            queue.waiters.retire(worker_id)
        self._workers.update(signal.workers.intersection(queue.stops.workers))
        self._polls_soon |= signal.is_all
        if self._workers or self._polls_soon:
            self._hinted.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        last_poll = last_recount = -math.inf
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(last_poll + self._pause):
                    await self._hinted.wait()
            self._hinted.clear()
            if loop.time() >= last_poll + self._pause:
                self._polls_soon, last_poll = False, loop.time()
                await self._poll()
            await self._read_stops()
            if loop.time() >= last_recount + RECOUNT_SECONDS:
                last_recount = loop.time()
                await self._queue.recount()

    @property
    def _pause(self) -> float:
        """Between polls, in seconds."""
        return min(self._poll_seconds, SHORTEST_PAUSE_SECONDS) if self._polls_soon else self._poll_seconds

    async def _poll(self) -> None:
        queue = self._queue
        self._workers.update(queue.stops.workers)
        if kinds := queue.waiters.kinds:
            ready = {parse_lane(lane)[0] for lane in await queue.reads.ready_lanes(kinds)}
            self._low_water.forget()
            for kind in ready:
                queue.waiters.wake(kind, sys.maxsize)
        if roots := queue.logs.roots:
            last = await queue.reads.last_sequences(roots)
            queue.logs.touch(root for root in roots if queue.logs.known(root) != last.get(root))

    async def _read_stops(self) -> None:
        if self._workers:
            workers, self._workers = self._workers, set()
            recent = await self._queue.reads.stops_since(workers, self._clock() - RECENT)
            self._queue.stops.publish(recent)
