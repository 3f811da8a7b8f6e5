"""Killing and pausing services at random, and knowing when each was away."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dbp_client.house import SERVICES, House
from svc_common.times import now

DOERS = ("tool_svc", "coordinator_svc")


@dataclass
class Outage:
    """From the kill, or the pause, to when the service said again that it is healthy. Epoch microseconds; `ended` is 0 before."""

    service: str
    is_pause: bool
    began: int
    ended: int = 0


@dataclass
class Killer:
    """Kills one service after the other, every `mean_seconds` or so, and the house starts it again; or lets a doer pause for longer
    than its leases last, so that it goes on as one that was given up for dead. A service that is away is spared."""

    house: House
    chance: random.Random
    mean_seconds: float
    pause_seconds: float
    pauses: float = 0.25
    outages: list[Outage] = field(default_factory=list)

    async def run(self) -> None:
        """Until it is cancelled; then returns when all services are back."""
        async with asyncio.TaskGroup() as returns:
            try:
                while True:
                    for service in self.chance.sample(SERVICES, k=len(SERVICES)):
                        await asyncio.sleep(self.mean_seconds * self.chance.uniform(0.3, 1.7))
                        if not any(outage.service == service and not outage.ended for outage in self.outages):
                            is_pause = service in DOERS and self.chance.random() < self.pauses
                            self.outages.append(Outage(service, is_pause, now()))
                            returns.create_task(self._send_away(self.outages[-1]))
            except asyncio.CancelledError:
                return

    async def _send_away(self, outage: Outage) -> None:
        process_id = self.house.process_id(outage.service)
        if outage.is_pause:
            os.kill(process_id, signal.SIGSTOP)
            try:
                await asyncio.sleep(self.pause_seconds)
            finally:
                os.kill(process_id, signal.SIGCONT)
        else:
            os.kill(process_id, signal.SIGKILL)
        async with asyncio.timeout(90):
            while not await self.house.is_serving(outage.service):  # noqa: ASYNC110  # another process decides it
                await asyncio.sleep(0.02)
        outage.ended = now()


def counted(outages: Sequence[Outage]) -> Counter[str]:
    """How often which service was killed and paused."""
    return Counter(f"{outage.service} {'paused' if outage.is_pause else 'killed'}" for outage in outages)


def up_again(outages: Sequence[Outage], service: str, time: int) -> int:
    """The first moment from `time` on, in epoch microseconds, at which the service was not away."""
    for outage in sorted(outages, key=lambda each: each.began):
        if outage.service == service and outage.began <= time < (outage.ended or now()):
            time = outage.ended or now()
    return time


def without(span: tuple[int, int], gaps: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of a span of time that lie in none of the gaps."""
    parts = []
    began, ended = span
    for gap_began, gap_ended in sorted(gaps):
        if began < min(gap_began, ended):
            parts.append((began, min(gap_began, ended)))
        began = max(began, gap_ended)
    return [*parts, (began, ended)] if began < ended else parts


def is_quiet(outages: Sequence[Outage], began: int, ended: int) -> bool:
    """Whether no service was away at any time between the two."""
    return not any(outage.began <= ended and began <= (outage.ended or now()) for outage in outages)
