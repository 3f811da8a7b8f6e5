"""Settling charges to the end, also when the work they were made for has been cancelled or is out of time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from llm.metering import Meter
from svc_common import deadline
from svc_common.errors import ServiceError
from svc_common.tokens import TokenUsage

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Settler:
    """Owns the tasks that settle. Each tries for `seconds`, should the keeper of budgets be away."""

    def __init__(self, meter: Meter, seconds: float) -> None:
        self._meter = meter
        self._seconds = seconds
        self._tasks: set[asyncio.Task[Any]] = set()

    def settle(self, charge_id: str, usage: TokenUsage | None) -> asyncio.Task[int | None]:
        """Starts settling. The task returns the pico-USD charged, or None when that could not be learned; wait for it shielded."""
        return self._start(self._settle(charge_id, usage))

    def abandon(self, charge_id: str) -> None:
        """Gives back a charge that may not have been made."""
        self._start(self._abandon(charge_id))

    async def close(self, seconds: float) -> None:
        """Waits until all is settled, but for so many seconds at most: what is not by then is charged in full."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _settle(self, charge_id: str, usage: TokenUsage | None) -> int | None:
        try:
            with deadline.lifted(self._seconds):
                return await self._meter.settle(charge_id, usage)
        except ServiceError as error:
            # Not lost: the charge's lease ends, and it is then charged in full.
            _log.warning("charge %s could not be settled: %s", charge_id, error)
            return None

    async def _abandon(self, charge_id: str) -> None:
        try:
            with deadline.lifted(self._seconds):
                await self._meter.abandon(charge_id)
        except ServiceError as error:
            _log.warning("charge %s could not be given back: %s", charge_id, error)
