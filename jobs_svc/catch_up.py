"""Finding out what other replicas have committed: at once by their signals, and by polling whatever signals may be lost."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from jobs_svc.job import parse_lane
from jobs_svc.queue import JobQueue
from jobs_svc.signals import Signal
from svc_common.times import MICROS, Clock

RECOUNT_SECONDS = 5.0
# Far longer than a commit takes to become visible and than clocks differ.
RECENT = 60 * MICROS


class CatchUp:
    """Lets those who wait in this replica know what happened in others."""

    def __init__(self, queue: JobQueue, clock: Clock, *, poll_seconds: float) -> None:
        self._queue = queue
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._workers: set[str] = set()  # that have something to stop
        self._hinted = asyncio.Event()

    def hint(self, signal: Signal) -> None:
        """Acts on the signal of another replica."""
        queue = self._queue
        for kind, number in signal.kinds.items():
            queue.waiters.wake(kind, number)
        queue.logs.touch(queue.logs.roots if signal.is_all else signal.roots)
        for worker_id in signal.retired:
            queue.waiters.retire(worker_id)
        self._workers.update(signal.workers.intersection(queue.stops.workers))
        if self._workers:
            self._hinted.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        next_poll = next_recount = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_poll):
                    await self._hinted.wait()
            self._hinted.clear()
            if loop.time() >= next_poll:
                await self._poll()
                next_poll = loop.time() + self._poll_seconds
            if loop.time() >= next_recount:
                await self._queue.recount()
                next_recount = loop.time() + RECOUNT_SECONDS
            await self._read_stops()

    async def _poll(self) -> None:
        queue = self._queue
        self._workers.update(queue.stops.workers)
        if kinds := queue.waiters.kinds:
            for kind in {parse_lane(lane)[0] for lane in await queue.reads.ready_lanes(kinds)}:
                queue.waiters.wake(kind, sys.maxsize)
        if roots := queue.logs.roots:
            last = await queue.reads.last_sequences(roots)
            queue.logs.touch(root for root in roots if queue.logs.known(root) != last.get(root))

    async def _read_stops(self) -> None:
        if self._workers:
            workers, self._workers = self._workers, set()
            recent = await self._queue.reads.stops_since(workers, self._clock() - RECENT)
            self._queue.stops.publish(recent)
