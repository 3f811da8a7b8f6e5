"""Callers of every temper, and what each of them saw."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2

from dbp_client import AsyncClient
from svc_common.channel import call
from svc_common.errors import ServiceError
from svc_common.ids import new_id
from svc_common.times import now

Event = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult

# A stream that has not ended so long after its request's deadline is given up; services that are away are waited for.
PATIENCE_SECONDS = 25.0


@dataclass
class Seen:
    """What one watcher saw of a request from its first event on, over however many connections. A restart shows as "\\0"."""

    last: int = 0
    text: str = ""
    result: Result | None = None
    arrival: int = 0
    gaps: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        if event.first_sequence != self.last + 1 or event.sequence < event.first_sequence:
            self.gaps.append(f"after {self.last} came {event.first_sequence} to {event.sequence}")
        if self.result is not None:
            self.gaps.append(f"{event.sequence} came after the result")
        self.last = event.sequence
        match event.WhichOneof("event"):
            case "answer_text":
                self.text += "\0" if event.answer_text.restart else event.answer_text.text
            case "result":
                self.result = event.result
                self.arrival = now()


@dataclass
class Asked:
    """One request: what was asked, and what its watchers saw. Times are epoch microseconds."""

    request_id: str
    temper: str
    timeout: float
    start: int
    seen: list[Seen] = field(default_factory=list)
    is_accepted: bool = False
    has_hung: bool = False
    error: str = ""
    jobs_at_end: dict[str, jobs_pb2.Job] = field(default_factory=dict)
    """The tree of jobs as read when the result had come: nothing may change it any more."""


Temper = Callable[["Caller", Asked], Awaitable[None]]


@dataclass
class Caller:
    """Asks one question after the other, each in another temper; gives none more than `longest_seconds`."""

    client: AsyncClient
    chance: random.Random
    longest_seconds: float
    asked: list[Asked]

    async def run(self, until: float) -> None:
        """`until` is a time of the event loop, after which no further question is asked."""
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            await self.ask_once()

    async def ask_once(self) -> None:
        name = self.chance.choice(tuple(TEMPERS))
        least, most = (0.07, 0.25) if name == "hurried" else (0.4, 1.0)
        timeout = max(1.0, self.longest_seconds * self.chance.uniform(least, most))
        asked = Asked(new_id(), name, timeout, now())
        self.asked.append(asked)
        try:
            async with asyncio.timeout(timeout + 2 * PATIENCE_SECONDS):
                await TEMPERS[name](self, asked)
        except TimeoutError:
            asked.has_hung = True
        except ServiceError as error:
            asked.error = repr(error)
        if any(seen.result for seen in asked.seen):
            await self._remember_jobs(asked)

    async def _remember_jobs(self, asked: Asked) -> None:
        try:
            asked.jobs_at_end = {job.id: job for job in await tree(self.client, asked.request_id)}
        except ServiceError:
            return  # jobs_svc is away; then there is nothing to compare with

    # -- tempers --

    async def _patient(self, asked: Asked) -> None:
        await self._exhaust(asked, self._ask(asked))

    async def _poor(self, asked: Asked) -> None:
        await self._exhaust(asked, self._ask(asked, max_cost=f"{self.chance.uniform(0.00005, 0.004):.6f}"))

    async def _leaving(self, asked: Asked) -> None:
        """Leaves by the client's own way, which cancels."""
        async with aclosing(self._watched(asked, self._ask(asked))) as events:
            await self._some(events)

    async def _vanishing(self, asked: Asked) -> None:
        """Breaks the connection, as a caller that is not ours would."""
        request = coordinator_pb2.ProcessRequestRequest(request_id=asked.request_id, query=_query(asked))
        rpc = self.client.coordinator.ProcessRequest(request, timeout=asked.timeout)

        async def events() -> AsyncIterator[Event]:
            try:
                async for response in rpc:
                    yield response.event
            except grpc.aio.AioRpcError as error:
                asked.error = error.code().name

        async with aclosing(self._watched(asked, events())) as watched:
            await self._some(watched)
        rpc.cancel()

    async def _cancelling(self, asked: Asked) -> None:
        """Cancels from aside and stays to see the end."""

        async def cancel() -> None:
            await asyncio.sleep(self.chance.uniform(0, 3))
            try:
                await self.client.cancel(asked.request_id)
            except ServiceError as error:
                asked.error = repr(error)

        cancelling = asyncio.create_task(cancel())
        await self._exhaust(asked, self._ask(asked))
        await cancelling

    async def _returning(self, asked: Asked) -> None:
        """Leaves without cancelling, again and again, and comes back for what it has not seen."""
        async with aclosing(self._watched(asked, self._ask(asked, continue_when_detached=True))) as events:
            await self._some(events)
        seen = asked.seen[0]
        while asked.is_accepted and seen.result is None:
            rest = self.client.watch(asked.request_id, seen.last)
            async with aclosing(self._watched(asked, rest, seen)) as events:
                await self._some(events)

    async def _twice(self, asked: Asked) -> None:
        """Sends the same request two times at once."""
        await asyncio.gather(self._exhaust(asked, self._ask(asked)), self._exhaust(asked, self._ask(asked)))

    # -- what they are made of --

    def _ask(self, asked: Asked, **fields: Any) -> AsyncIterator[Event]:
        return self.client.ask(_query(asked), timeout=asked.timeout, request_id=asked.request_id, **fields)

    async def _watched(
        self, asked: Asked, events: AsyncIterator[Event], seen: Seen | None = None
    ) -> AsyncGenerator[Event, None]:
        if seen is None:
            seen = Seen()
            asked.seen.append(seen)
        async with aclosing(events):  # type: ignore[type-var]  # what is iterated here are async generators
            async for event in events:
                asked.is_accepted = True
                seen.take(event)
                yield event

    async def _exhaust(self, asked: Asked, events: AsyncIterator[Event]) -> None:
        async for _ in self._watched(asked, events):
            continue

    async def _some(self, events: AsyncIterator[Event]) -> None:
        """Takes events for a while that may end at any point of the request."""
        left = self.chance.randint(1, 40)
        async for _ in events:
            left -= 1
            if left <= 0:
                return


TEMPERS: dict[str, Temper] = {
    "patient": Caller._patient,
    "hurried": Caller._patient,
    "poor": Caller._poor,
    "leaving": Caller._leaving,
    "vanishing": Caller._vanishing,
    "cancelling": Caller._cancelling,
    "returning": Caller._returning,
    "twice": Caller._twice,
}


async def tree(client: AsyncClient, root_id: str) -> list[jobs_pb2.Job]:
    """All jobs of a request, the root included."""
    jobs: list[jobs_pb2.Job] = []
    token = ""
    while True:
        request = jobs_pb2.ListJobsRequest(root_id=root_id, page_size=200, page_token=token)
        response = await call(client.jobs.ListJobs, request, timeout=5)
        jobs.extend(response.jobs)
        token = response.next_page_token
        if not token:
            return jobs


def _query(asked: Asked) -> str:
    return f"How often are payments retried? ({asked.request_id})"
