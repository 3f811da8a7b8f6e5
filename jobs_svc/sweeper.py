"""The passing of time: ends jobs at their deadlines, takes leases that ran out, makes delayed jobs ready."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from jobs_svc.reads import Reads
from jobs_svc.transaction import Operation, PassTime
from svc_common.group_commit import GroupCommitter
from svc_common.times import MICROS, Clock

BATCH = 500
# Also the longest time for which a job that another replica wrote may be overlooked.
MAX_SLEEP = MICROS // 2


class Sweeper:
    def __init__(self, committer: GroupCommitter[Operation, Any], reads: Reads, clock: Clock) -> None:
        self._committer = committer
        self._reads = reads
        self._clock = clock
        self._wake_time = 0
        self._sooner = asyncio.Event()

    def expect(self, wake_time: int) -> None:
        """A job was written for which something is due then."""
        if wake_time < self._wake_time:
            self._sooner.set()

    async def run(self) -> None:
        while True:
            self._sooner.clear()
            self._wake_time = self._clock() + MAX_SLEEP
            next_wake = await self._reads.next_wake()
            if next_wake is not None:
                self._wake_time = min(self._wake_time, next_wake)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, self._wake_time - self._clock()) / MICROS):
                    await self._sooner.wait()
            if next_wake is not None and next_wake <= self._clock():
                while await self._committer.submit(PassTime(BATCH)) == BATCH:
                    continue
