"""The passing of time: ends jobs at their deadlines, takes leases that ran out, makes delayed jobs ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from jobs_svc.reads import Reads
from jobs_svc.transaction import Operation, PassTime
from jobs_svc.upkeep import set_aside
from svc_common.errors import ServiceError
from svc_common.group_commit import GroupCommitter
from svc_common.times import MICROS, Clock

logger = logging.getLogger(__name__)

BATCH = 500
# Also the longest time for which a job that another replica wrote may be overlooked.
MAX_SLEEP = MICROS // 2
# Whatever is due is swept within moments, so it is looked for only among what came due lately: the index may still hold the entries
# of very many that were. The slack is for other replicas' clocks; now and then everything is looked at.
SLACK = 2 * MICROS
LOOK_AT_ALL_EVERY = 60 * MICROS
SET_ASIDE = 60 * MICROS


class Sweeper:
    def __init__(self, committer: GroupCommitter[Operation, Any], reads: Reads, clock: Clock) -> None:
        self._committer = committer
        self._reads = reads
        self._clock = clock
        self._wake_time = 0
        self._sooner = asyncio.Event()
        self._swept_until = 0
        self._looked_at_all = 0

    def expect(self, wake_time: int) -> None:
        """A job was written for which something is due then."""
        if wake_time < self._wake_time:
            self._sooner.set()

    async def run(self) -> None:
        while True:
            self._sooner.clear()
            now = self._clock()
            self._wake_time = now + MAX_SLEEP
            next_wake = await self._reads.next_wake(self._since(now))
            if next_wake is not None:
                self._wake_time = min(self._wake_time, next_wake)
            if next_wake is None or next_wake > now:
                self._swept_until = now
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, self._wake_time - self._clock()) / MICROS):
                    await self._sooner.wait()
            if next_wake is not None and next_wake <= self._clock():
                await self._sweep()

    def _since(self, now: int) -> int:
        if now - self._looked_at_all >= LOOK_AT_ALL_EVERY:
            self._looked_at_all, self._swept_until = now, 0
        return max(0, self._swept_until - SLACK)

    async def _sweep(self) -> None:
        while due := await self._reads.due(self._since(self._clock()), self._clock(), BATCH):
            try:
                await self._committer.submit(PassTime(due))
            except ServiceError:
                raise
            except Exception:  # noqa: BLE001 - whatever is wrong with one job must not keep the others from their time
                await self._pass_time_one_by_one(due)

    async def _pass_time_one_by_one(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            try:
                await self._committer.submit(PassTime([job_id]))
            except ServiceError:
                raise
            except Exception:
                logger.exception("job %s: what is due to it cannot be done; it is set aside for a while", job_id)
                await self._committer.submit(set_aside(job_id, self._clock() + SET_ASIDE))
