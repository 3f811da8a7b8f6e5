"""What replicas on one PostgreSQL tell each other: which kinds have work, which logs have grown, which workers must stop something.

NOTIFY makes commits wait for each other, so signals are gathered for some milliseconds and sent on a connection of their own, off
the path of writes. A signal is a hint: whoever gets none finds out by polling.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from jobs_svc.job import Phase
from jobs_svc.transaction import Changes
from svc_common.errors import ErrorReason, ServiceError

CHANNEL = "dbp_jobs"
GATHER_SECONDS = 0.005
SELF_CHECK_SECONDS = 5.0
ANSWER_SECONDS = 2.0
MAX_PAYLOAD_BYTES = 7900  # PostgreSQL takes under 8000


@dataclass(slots=True)
class Signal:
    """What has changed. With `is_all`, which stands for whatever may have happened, the rest is not all of it."""

    readied: Counter[str] = field(default_factory=Counter)  # jobs by kind
    freed: Counter[str] = field(default_factory=Counter)
    moved: Counter[tuple[str, Phase]] = field(default_factory=Counter)
    roots: set[str] = field(default_factory=set)
    workers: set[str] = field(default_factory=set)  # that have something to stop
    retired: set[str] = field(default_factory=set)
    is_all: bool = False
    asks: bool = False  # who is there

    def add(self, changes: Changes) -> None:
        self.readied.update(changes.readied)
        self.freed.update(changes.freed)
        self.moved.update(changes.moved)
        self.roots.update(event.root_id for event in changes.events)
        self.workers.update(stop.worker_id for stop in changes.stops)

    def to_json(self, sender: str) -> str:
        """What does not fit is left out, roots first: their watchers find out by the poll that `is_all` brings about."""
        content: dict[str, Any] = {
            "from": sender,
            "readied": self.readied,
            "freed": self.freed,
            "moved": [[kind, phase, number] for (kind, phase), number in self.moved.items() if number],
            "workers": sorted(self.workers),
            "retired": sorted(self.retired),
            "roots": sorted(self.roots),
        }
        flags = {"is_all": self.is_all, "asks": self.asks}
        payload = json.dumps(content | flags)
        while len(payload.encode()) > MAX_PAYLOAD_BYTES:
            content.popitem()
            payload = json.dumps(content | flags | {"is_all": True})
        return payload


def parse_signal(payload: str) -> tuple[str, Signal]:
    """The sender and what it says."""
    content = json.loads(payload)
    moved = Counter({(kind, Phase(phase)): number for kind, phase, number in content.get("moved", ())})
    readied, freed = (Counter(content.get(name, {})) for name in ("readied", "freed"))
    roots, workers, retired = (set(content.get(name, ())) for name in ("roots", "workers", "retired"))
    return content["from"], Signal(readied, freed, moved, roots, workers, retired, content["is_all"], content["asks"])


class Signals:
    """Sends and receives signals; `on_signal` is called on the loop for those of other replicas.

    A replica that is alone sends nothing but what its own listener waits for. One that joins asks who is there, and is answered.
    """

    def __init__(self, dsn: str, on_signal: Callable[[Signal], None]) -> None:
        self._dsn = dsn
        self._on_signal = on_signal
        self._name = os.urandom(8).hex()
        self._loop = asyncio.get_running_loop()
        self._gathered = Signal()
        self._news = asyncio.Event()
        # Until when, by the loop's clock, there may be others; for good as long as we could not hear them.
        self._others_until = math.inf

    def send(self, changes: Changes) -> None:
        """Tells the other replicas soon."""
        if self._may_have_others and (changes.moved or changes.events or changes.stops):
            self._gathered.add(changes)
            self._news.set()

    def send_retired(self, worker_id: str) -> None:
        if self._may_have_others:
            self._gathered.retired.add(worker_id)
            self._news.set()

    @property
    def _may_have_others(self) -> bool:
        return self._loop.time() < self._others_until

    async def run_sender(self) -> None:
        with _lost_as_unavailable():
            async with await self._connect() as connection:
                while True:
                    # Without news an empty signal goes out all the same: our own listener waits for it.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(SELF_CHECK_SECONDS):
                            await self._news.wait()
                    await asyncio.sleep(GATHER_SECONDS)
                    self._news.clear()
                    signal, self._gathered = self._gathered, Signal()
                    await self._notify(connection, signal)

    async def run_listener(self) -> None:
        """Ends with STORE_UNAVAILABLE when nothing, not even our own signals, was heard for too long."""
        with _lost_as_unavailable():
            async with await self._connect() as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                self._on_signal(Signal(is_all=True))  # for what was said while nobody listened
                await self._notify(connection, Signal(asks=True))
                self._others_until = self._loop.time() + ANSWER_SECONDS
                try:
                    while await self._hear(connection):
                        continue
                finally:
                    self._others_until = math.inf
        raise ServiceError(ErrorReason.STORE_UNAVAILABLE, "the listening connection has fallen silent")

    async def _hear(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> bool:
        """Passes signals on until there is a silence; False when it lasted from the beginning."""
        has_heard = False
        async for notify in connection.notifies(timeout=3 * SELF_CHECK_SECONDS, stop_after=100):
            has_heard = True
            sender, signal = parse_signal(notify.payload)
            if sender != self._name:
                self._others_until = self._loop.time() + 3 * SELF_CHECK_SECONDS
                if signal.asks:
                    self._gathered.is_all = True  # whatever it may have missed until now
                    self._news.set()
                self._on_signal(signal)
        return has_heard

    async def _notify(self, connection: psycopg.AsyncConnection[tuple[object, ...]], signal: Signal) -> None:
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, signal.to_json(self._name)))

    async def _connect(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, connect_timeout=5)


@contextmanager
def _lost_as_unavailable() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise ServiceError(ErrorReason.STORE_UNAVAILABLE, "the connection for signals was lost") from error
