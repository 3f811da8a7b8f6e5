"""Waiting admission: a reservation that others' holds keep out waits in line until there is room or its time is up.

The line is this process's own. It moves when a charge settles, is released or expires here, when a limit rises or a place is given
up; for what happens in other replicas, and for rates, which come free with time, it is tried at short intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace

from budget_svc.budgets import TransientDenial
from budget_svc.charges import Charge
from budget_svc.line import Line
from budget_svc.operations import Reserve, ReserveInTurn
from svc_common.errors import ErrorReason, ServiceError

# How many of each level are tried in one transaction.
_TRIED_AT_ONCE = 32


@dataclass(slots=True)
class Waiter:
    """One who waits. `denial` is what was in the way when it was tried last."""

    operation: Reserve
    priority: int
    denial: TransientDenial
    granted: asyncio.Future[Charge] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_being_tried: bool = False
    is_out_of_time: bool = False

    @property
    def is_conclusion(self) -> bool:
        return self.operation.is_conclusion

    @property
    def level(self) -> str:
        return self.denial.level


class WaitingRoom:
    """`reserve` tries one reservation, `reserve_in_turn` several that have waited, in order. `run` must be running."""

    def __init__(
        self,
        reserve: Callable[[Reserve], Awaitable[Charge]],
        reserve_in_turn: Callable[[ReserveInTurn], Awaitable[list[Charge | ServiceError]]],
        *,
        poll_seconds: float,
    ) -> None:
        self._reserve = reserve
        self._reserve_in_turn = reserve_in_turn
        self._poll_seconds = poll_seconds
        self._line: Line[Waiter] = Line()
        self._freed: set[str] = set()
        self._frees = 0  # how often room came free anywhere
        self._wake = asyncio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    async def reserve(self, operation: Reserve, *, priority: int, max_wait: float) -> Charge:
        """Reserves at once or within `max_wait` seconds. Raises the denial that stood last when there is no room in time."""
        ahead = self._line.levels_ahead_of(priority, operation.is_conclusion)
        frees = self._frees
        try:
            return await self._reserve(replace(operation, yields_to=ahead) if ahead else operation)
        except TransientDenial as denial:
            if max_wait <= 0 or self._is_closed:
                raise
            if self._frees != frees:  # after the denial, it may be
                self._freed.add(denial.level)
            return await self._wait(Waiter(operation, priority, denial), max_wait)

    def room_came_free(self, levels: AbstractSet[str]) -> None:
        """Has those who wait at these levels tried again."""
        if levels:
            self._frees += 1
        if freed := self._line.levels() & levels:
            self._freed |= freed
            self._wake.set()

    async def run(self) -> None:
        """Tries those whose turn may have come, until cancelled."""
        clock = asyncio.get_running_loop()
        next_poll = clock.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_poll if len(self._line) else None):
                    await self._wake.wait()
            self._wake.clear()
            levels, self._freed = self._freed, set()
            # At its time, whatever woke it: those who come and go must not keep the others from being tried.
            if clock.time() >= next_poll:
                levels = self._line.levels()
                next_poll = clock.time() + self._poll_seconds
            while levels:
                levels = await self._try(levels)

    def close(self) -> None:
        """Sends away those who wait, and lets nobody wait any more: they find another replica or come again."""
        self._is_closed = True
        for waiter in self._line:
            _answer(waiter, ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "the service is stopping"))

    async def _wait(self, waiter: Waiter, max_wait: float) -> Charge:
        number = self._line.join(waiter)
        self._wake.set()
        try:
            await asyncio.wait({waiter.granted}, timeout=max_wait)
            if not waiter.granted.done():
                waiter.is_out_of_time = True
                if not waiter.is_being_tried:
                    raise waiter.denial
            # A grant that is on its way must not be lost: nobody would know of the hold until its lease ends.
            return await waiter.granted
        finally:
            waiter.granted.cancel()
            waiter.is_out_of_time = True
            self._line.leave(number)
            # Those behind it may have waited for nothing but its turn.
            self.room_came_free({waiter.level})

    async def _try(self, levels: Iterable[str]) -> set[str]:
        """Tries the next at each level; returns the levels where all of them went through and more wait."""
        turns = [
            (waiter, ahead) for waiter, ahead in self._line.turns(levels, _TRIED_AT_ONCE) if not waiter.is_out_of_time
        ]
        if not turns:
            return set()
        for waiter, _ in turns:
            waiter.is_being_tried = True
        operations = tuple(replace(waiter.operation, yields_to=ahead) for waiter, ahead in turns)
        try:
            results = await self._reserve_in_turn(ReserveInTurn(operations))
        except Exception as error:
            for waiter, _ in turns:
                if waiter.is_out_of_time:
                    _answer(waiter, error)
            raise
        finally:
            for waiter, _ in turns:
                waiter.is_being_tried = False
        tried = [waiter.level for waiter, _ in turns]
        stopped = set()
        for (waiter, _), result in zip(turns, results, strict=True):
            if isinstance(result, TransientDenial) and not waiter.is_out_of_time:
                stopped |= {waiter.level, result.level}
                waiter.denial = result
            else:
                _answer(waiter, result)
        return {level for level in tried if tried.count(level) == _TRIED_AT_ONCE} - stopped


def _answer(waiter: Waiter, result: Charge | Exception) -> None:
    if waiter.granted.done():
        return
    if isinstance(result, Exception):
        waiter.granted.set_exception(result)
    else:
        waiter.granted.set_result(result)
