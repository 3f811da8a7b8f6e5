"""The keeper of the ledger: brings operations to the committer, and what they cause to those who wait and watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from budget_svc import queries, retention
from budget_svc.book import News
from budget_svc.budgets import THRESHOLDS, Budget
from budget_svc.charges import Charge
from budget_svc.ledger import Entry
from budget_svc.operations import Asks, Expire, Reserve
from budget_svc.proof import Difference, differences
from budget_svc.waiting import WaitingRoom
from svc_common import deadline
from svc_common.errors import ErrorReason, ServiceError
from svc_common.group_commit import GroupCommitter
from svc_common.store import Database
from svc_common.tasks import supervised
from svc_common.times import DAY, Clock

R = TypeVar("R")

_SWEEP_BATCH = 500
_FOLD_BATCH = 500
# One who waits is answered this long before its caller stops listening.
_ANSWER_SHARE, _ANSWER_SECONDS = 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often the keeper does what nobody asks for, in seconds; `retention_days` 0 keeps every charge."""

    sweep: float
    poll: float
    fold: float
    retention_days: int


class Keeper:
    """Owns the background work; `start` begins it, `stop` ends it and sends away those who wait and watch."""

    def __init__(
        self, committer: GroupCommitter[Any, Any], database: Database, clock: Clock, intervals: Intervals
    ) -> None:
        self._committer = committer
        self._database = database
        self._clock = clock
        self._intervals = intervals
        self.waiting = WaitingRoom(self.do, self.do, poll_seconds=intervals.poll)
        self._passed = asyncio.Event()
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    # What is asked

    async def do(self, operation: Asks[R]) -> R:
        """What the operation gives, once it is durable. Raises ServiceError when it is refused."""
        result: R = await self._committer.submit(operation)
        return result

    async def reserve(self, operation: Reserve, *, priority: int, max_wait: float) -> Charge:
        """Waits up to `max_wait` seconds for room, and never so long that the caller's deadline passes unanswered."""
        left = deadline.remaining()
        if left is not None:
            max_wait = min(max_wait, left - min(left * _ANSWER_SHARE, _ANSWER_SECONDS))
        return await self.waiting.reserve(operation, priority=priority, max_wait=max_wait)

    async def budget(self, budget_id: str) -> Budget:
        budget = await self._database.read(lambda connection: queries.budget(connection, budget_id))
        if budget is None:
            raise ServiceError(
                ErrorReason.BUDGET_NOT_FOUND, f"no budget {budget_id!r}", metadata={"budget_id": budget_id}
            )
        return budget

    async def usage(self, tenant: str, start: int, end: int) -> list[queries.Usage]:
        """`end` 0 is now."""
        until = end or self._clock() + 1
        return await self._database.read(lambda connection: queries.usage(connection, tenant, start, until))

    async def entries(self, budget_id: str, after: int, most: int) -> list[Entry]:
        if budget_id:
            await self.budget(budget_id)
        return await self._database.read(lambda connection: queries.entries(connection, budget_id, after, most))

    async def verify(self) -> tuple[int, int, list[Difference]]:
        """How many budgets and entries were checked, and what does not agree."""

        def check(connection: Connection) -> tuple[int, int, list[Difference]]:
            budgets, own = queries.proof(connection)
            return len(budgets), sum(each.entries for each in own.values()), differences(budgets, own)

        return await self._database.read(check)

    async def thresholds(self, budget_id: str) -> AsyncIterator[tuple[Budget, int]]:
        """A budget or one under it, and the threshold (percent) that it has passed; those passed already come first.

        Each is told once for a limit, and anew when the limit changes. What was passed and undone between two looks is not told.
        """
        await self.budget(budget_id)
        # In other replicas something may pass that nobody here is told of.
        poll_seconds = None if self._database.is_sqlite else self._intervals.poll
        told: dict[str, tuple[int, int]] = {}
        while not self._is_stopping:
            passed = self._passed
            budgets = await self._database.read(lambda connection: queries.passed_budgets(connection, budget_id))
            for budget in budgets:
                limit, before = told.get(budget.id, (budget.limit, 0))
                for percent in THRESHOLDS:
                    if percent <= budget.passed_percent and (percent > before or limit != budget.limit):
                        yield budget, percent
            told = {budget.id: (budget.limit, budget.passed_percent) for budget in budgets}
            with suppress(TimeoutError):
                await asyncio.wait_for(passed.wait(), poll_seconds)
        raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "the service is stopping")

    # What it does by itself

    def start(self) -> None:
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "line": self.waiting.run,
            "sweeper": lambda: self._repeat(self.sweep, _SWEEP_BATCH, self._intervals.sweep),
        }
        if self._intervals.retention_days:
            loops["retention"] = lambda: self._repeat(self.fold, _FOLD_BATCH, self._intervals.fold)
        self._tasks = [asyncio.create_task(supervised(name, loop), name=name) for name, loop in loops.items()]

    async def stop(self) -> None:
        self._is_stopping = True
        self.waiting.close()
        self._passed.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def sweep(self) -> int:
        """Ends leases whose time has come; returns how many there were."""
        lapsed = await self._database.read(
            lambda connection: queries.lapsed_charges(connection, self._clock(), _SWEEP_BATCH)
        )
        await asyncio.gather(*(self.do(Expire(charge_id)) for charge_id in lapsed))
        return len(lapsed)

    async def fold(self) -> int:
        """Folds charges that ended longer ago than retention keeps them; returns how many there were."""
        before = self._clock() - self._intervals.retention_days * DAY
        return await self._database.write_aside(lambda connection: retention.fold(connection, before, _FOLD_BATCH))

    @staticmethod
    async def _repeat(work: Callable[[], Awaitable[int]], batch: int, seconds: float) -> None:
        """Works until cancelled: on at once after a full batch, else after a pause."""
        while True:
            if await work() < batch:
                await asyncio.sleep(seconds)

    def announce(self, news: News) -> None:
        """Lets those know who wait for room or watch thresholds."""
        self.waiting.room_came_free(news.freed)
        if news.passed:
            self._passed.set()
            self._passed = asyncio.Event()
