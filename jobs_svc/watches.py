"""Those who wait in memory for what others commit: watchers of logs, workers that watch for stops, workers that wait for jobs.

All of it lives on the event loop. What is kept for one of them is bounded; whoever misses something reads it from the store.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter

from jobs_svc.events import Event, Note, Text
from jobs_svc.job import Stop
from svc_common.errors import ErrorReason, ServiceError

MAX_BUFFERED_EVENTS = 4096
MAX_BUFFERED_BYTES = 8 * 1024 * 1024


class LogWatch:
    """One watcher's view of the events that are committed while it watches."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._is_behind = False
        self._is_slow = False
        self._news = asyncio.Event()
        self._closed: ServiceError | None = None

    def restart(self) -> None:
        """Forgets what was kept: the watcher reads the store from here on. Call before reading."""
        self._events.clear()
        self._bytes = 0
        self._is_behind = self._is_slow = False
        self._news.clear()

    def offer(self, events: Sequence[Event]) -> None:
        if self._is_behind or self._is_slow:
            return
        size = sum(map(_size, events))
        if len(self._events) + len(events) > MAX_BUFFERED_EVENTS or self._bytes + size > MAX_BUFFERED_BYTES:
            # One large commit is no fault of the watcher's; a second one that comes before the first was taken is.
            self._is_slow, self._is_behind = bool(self._events), not self._events
            self._events.clear()
        else:
            self._events.extend(events)
            self._bytes += size
        self._news.set()

    def touch(self) -> None:
        """There may be events that were not offered."""
        self._is_behind = True
        self._news.set()

    def close(self, error: ServiceError) -> None:
        self._closed = error
        self._news.set()

    async def next(self, sequence: int) -> Sequence[Event] | None:
        """Waits for the events that follow on `sequence`; None means that the store must be read. Raises WATCHER_TOO_SLOW."""
        await self._news.wait()
        if self._closed:
            raise self._closed
        if self._is_slow:
            raise ServiceError(ErrorReason.WATCHER_TOO_SLOW, "events came faster than they were read; watch again")
        events = [event for event in self._events if event.sequence > sequence]
        if self._is_behind or (events and events[0].first_sequence > sequence + 1):
            return None
        self._events.clear()
        self._bytes = 0
        self._news.clear()
        return events


def _size(event: Event) -> int:
    match event.body:
        case Text(text=text):
            return len(text)
        case Note(data=data):
            return len(data)
    return 0


class LogWatches:
    """The watchers of all logs, by root."""

    def __init__(self) -> None:
        self._watches: defaultdict[str, set[LogWatch]] = defaultdict(set)
        self._closed: ServiceError | None = None

    @property
    def roots(self) -> Iterable[str]:
        return tuple(self._watches)

    @contextmanager
    def watch(self, root_id: str) -> Iterator[LogWatch]:
        watch = LogWatch()
        if self._closed:
            watch.close(self._closed)
        self._watches[root_id].add(watch)
        try:
            yield watch
        finally:
            self._watches[root_id].discard(watch)
            if not self._watches[root_id]:
                del self._watches[root_id]

    def publish(self, events: Sequence[Event]) -> None:
        """Offers committed events, in the order of their commits."""
        if not self._watches:
            return
        by_root = attrgetter("root_id")
        for root_id, of_root in groupby(sorted(events, key=by_root), by_root):
            if watches := self._watches.get(root_id):
                offered = list(of_root)
                for watch in watches:
                    watch.offer(offered)

    def touch(self, root_ids: Iterable[str]) -> None:
        for root_id in root_ids:
            for watch in self._watches.get(root_id, ()):
                watch.touch()

    def close(self, error: ServiceError) -> None:
        self._closed = error
        for watches in self._watches.values():
            for watch in watches:
                watch.close(error)


class StopWatch:
    """One worker's stops that were not sent yet."""

    def __init__(self) -> None:
        self._stops: dict[tuple[str, int], Stop] = {}
        self._news = asyncio.Event()
        self._closed: ServiceError | None = None

    def offer(self, stop: Stop) -> None:
        self._stops[stop.job_id, stop.fencing_token] = stop
        self._news.set()

    def close(self, error: ServiceError) -> None:
        self._closed = error
        self._news.set()

    async def next(self) -> Sequence[Stop]:
        await self._news.wait()
        if self._closed:
            raise self._closed
        self._news.clear()
        stops = tuple(self._stops.values())
        self._stops.clear()
        return stops


class StopWatches:
    """The workers that watch for stops, by worker id."""

    def __init__(self) -> None:
        self._watches: defaultdict[str, set[StopWatch]] = defaultdict(set)
        self._closed: ServiceError | None = None

    @property
    def workers(self) -> Iterable[str]:
        return tuple(self._watches)

    @contextmanager
    def watch(self, worker_id: str) -> Iterator[StopWatch]:
        watch = StopWatch()
        if self._closed:
            watch.close(self._closed)
        self._watches[worker_id].add(watch)
        try:
            yield watch
        finally:
            self._watches[worker_id].discard(watch)
            if not self._watches[worker_id]:
                del self._watches[worker_id]

    def publish(self, stops: Iterable[Stop]) -> None:
        for stop in stops:
            for watch in self._watches.get(stop.worker_id, ()):
                watch.offer(stop)

    def close(self, error: ServiceError) -> None:
        self._closed = error
        for watches in self._watches.values():
            for watch in watches:
                watch.close(error)


class Waiter:
    """A worker that waits for a job of some kinds to become ready."""

    def __init__(self, worker_id: str, kinds: frozenset[str]) -> None:
        self.worker_id = worker_id
        self.kinds = kinds
        self.ready = asyncio.Event()


class Waiters:
    """Workers that wait, longest first."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self._is_closed = False

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset[str]().union(*(waiter.kinds for waiter in self._waiters))

    @contextmanager
    def wait(self, worker_id: str, kinds: frozenset[str]) -> Iterator[Waiter]:
        waiter = Waiter(worker_id, kinds)
        if self._is_closed:
            waiter.ready.set()
        self._waiters[waiter] = None
        try:
            yield waiter
        finally:
            del self._waiters[waiter]

    def wake(self, kind: str, number: int) -> None:
        """Wakes as many as there are jobs for; the others would come in vain."""
        for waiter in self._waiters:
            if number <= 0:
                return
            if kind in waiter.kinds and not waiter.ready.is_set():
                waiter.ready.set()
                number -= 1

    def wake_worker(self, worker_id: str) -> None:
        for waiter in self._waiters:
            if waiter.worker_id == worker_id:
                waiter.ready.set()

    def close(self) -> None:
        self._is_closed = True
        for waiter in self._waiters:
            waiter.ready.set()
