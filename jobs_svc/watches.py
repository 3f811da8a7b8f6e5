"""Those who wait in memory for what others commit: watchers of logs, workers that watch for stops, workers that wait for jobs.

All of it lives on the event loop. What is kept for one of them is bounded; whoever misses something reads it from the store.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from operator import attrgetter

from jobs_svc.events import Event, Note, Text
from jobs_svc.job import Stop
from jobs_svc.transaction import Taken
from jobs_svc.turns import Claimer
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS

# How long a stop is repeated to a worker that connects; longer than any lease goes on unnoticed.
STOP_MEMORY = 600 * MICROS
STOPS_REMEMBERED = 10_000
RETIRED_REMEMBERED = 10_000
MAX_BUFFERED_EVENTS = 4096
MAX_BUFFERED_BYTES = 8 * 1024 * 1024


class LogWatch:
    """One watcher's view of the events that are committed while it watches."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        # Offered and not taken yet, kept or not.
        self._count = 0
        self._bytes = 0
        self._is_behind = False
        self._is_slow = False
        self._news = asyncio.Event()
        self._sequence = 0
        self._closed: ServiceError | None = None

    @property
    def known(self) -> int:
        """The last sequence that was offered or read."""
        return self._events[-1].sequence if self._events else self._sequence

    def restart(self) -> None:
        """Forgets what was kept: the watcher reads the store from here on. Call before reading."""
        self._events.clear()
        self._count = self._bytes = 0
        self._is_behind = self._is_slow = False
        self._news.clear()

    def offer(self, events: Sequence[Event]) -> None:
        if self._is_slow:
            return
        # One large commit is no fault of the watcher's; a further one that comes before the first was taken is.
        had_untaken = self._count > 0
        self._count += len(events)
        self._bytes += sum(map(_size, events))
        if self._count > MAX_BUFFERED_EVENTS or self._bytes > MAX_BUFFERED_BYTES:
            self._is_slow, self._is_behind = had_untaken, True
            self._events.clear()
        elif not self._is_behind:
            self._events.extend(events)
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
        self._sequence = sequence
        await self._news.wait()
        if self._closed:
            raise self._closed
        if self._is_slow:
            raise ServiceError(ErrorReason.WATCHER_TOO_SLOW, "events came faster than they were read; watch again")
        events = [event for event in self._events if event.sequence > sequence]
        if self._is_behind or not _follows_on(events, sequence):
            return None
        self._events.clear()
        self._count = self._bytes = 0
        self._news.clear()
        return events


def _follows_on(events: Iterable[Event], sequence: int) -> bool:
    """Whether nothing is missing from `sequence` on; between two commits of ours there may be one of another replica."""
    for event in events:
        if event.first_sequence > sequence + 1:
            return False
        sequence = event.sequence
    return True


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

    def known(self, root_id: str) -> int:
        """The last sequence that all watchers of a log know of."""
        return min((watch.known for watch in self._watches.get(root_id, ())), default=0)

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
    """One worker's stops, each once."""

    def __init__(self) -> None:
        self._stops: dict[tuple[str, int], Stop] = {}
        self._sent: dict[tuple[str, int], None] = {}  # the last ones
        self._news = asyncio.Event()
        self._closed: ServiceError | None = None

    def offer(self, stop: Stop) -> None:
        key = stop.job_id, stop.fencing_token
        if key in self._sent:
            return
        self._stops[key] = stop
        self._news.set()
        if len(self._stops) > STOPS_REMEMBERED:
            self._stops.clear()
            self.close(ServiceError(ErrorReason.WATCHER_TOO_SLOW, "stops came faster than they were read; watch again"))

    def close(self, error: ServiceError) -> None:
        self._closed = error
        self._news.set()

    async def next(self) -> Sequence[Stop]:
        await self._news.wait()
        if self._closed:
            raise self._closed
        self._news.clear()
        stops, self._stops = self._stops, {}
        return self.unsent(stops.values())

    def unsent(self, stops: Iterable[Stop]) -> Sequence[Stop]:
        """Those of the stops that the worker has not been told of; they are about to be sent."""
        new = {key: stop for stop in stops if (key := (stop.job_id, stop.fencing_token)) not in self._sent}
        self._sent.update(dict.fromkeys(new))
        while len(self._sent) > STOPS_REMEMBERED:
            del self._sent[next(iter(self._sent))]
        return tuple(new.values())


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
    """A worker that waits for a job it can claim."""

    def __init__(self, claimer: Claimer) -> None:
        self.claimer = claimer
        self.claim: asyncio.Future[Taken] | None = None  # made for it already, in the commit that makes the job ready
        self.is_idle = False
        # Kinds of jobs that became ready and that nobody else was told of.
        self.woken_for: set[str] = set()
        self._ready = asyncio.Event()

    def wake(self, kind: str, claim: asyncio.Future[Taken] | None = None) -> None:
        self.woken_for.add(kind)
        self.claim = claim
        self._ready.set()

    def dismiss(self) -> None:
        """Lets it see that its wait is over."""
        self._ready.set()

    @property
    def is_woken(self) -> bool:
        return self._ready.is_set()

    async def ready(self, give_up: float) -> bool:
        """Waits to be woken, until `give_up` of the loop's clock; whether it was."""
        self.is_idle = True
        with suppress(TimeoutError):
            async with asyncio.timeout_at(give_up):
                await self._ready.wait()
        self.is_idle = False
        return self._ready.is_set()

    def take_claim(self) -> asyncio.Future[Taken] | None:
        """The claim that was made for it, if any. It can be woken again from here on."""
        claim, self.claim = self.claim, None
        self._ready.clear()
        return claim

    def has_taken(self, kinds: Iterable[str]) -> None:
        """It claimed, and these are the kinds of what it got. What it was woken for is gone when that was nothing at all."""
        self.woken_for.difference_update(kinds)
        if not kinds and not self.is_woken:
            self.woken_for.clear()


class Waiters:
    """Workers that wait, longest first."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self._retired: dict[str, None] = {}
        self._is_closed = False

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset[str]().union(*(waiter.claimer.kinds for waiter in self._waiters))

    @contextmanager
    def wait(self, claimer: Claimer) -> Iterator[Waiter]:
        waiter = Waiter(claimer)
        self._waiters[waiter] = None
        try:
            yield waiter
        finally:
            del self._waiters[waiter]
            for kind in waiter.woken_for:  # it left, or took something else, and the job is still there
                self.wake(kind, 1)

    def choose(self, kind: str, number: int) -> list[Waiter]:
        """As many of those that do nothing but wait as there are jobs for, to claim in their place."""
        return list(islice((waiter for waiter in self._able(kind) if waiter.is_idle), number))

    def wake(self, kind: str, number: int) -> None:
        """Wakes as many as there are jobs for; the others would come in vain."""
        for waiter in list(islice(self._able(kind), number)):
            waiter.wake(kind)

    def wake_all(self, number: int) -> None:
        for kind in self.kinds:
            self.wake(kind, number)

    def _able(self, kind: str) -> Iterator[Waiter]:
        return (waiter for waiter in self._waiters if not waiter.is_woken and kind in waiter.claimer.kinds)

    def is_over(self, waiter: Waiter) -> bool:
        """Whether it shall claim no more; a claim that was made for it already is still its own."""
        return waiter.claim is None and (self._is_closed or self.is_retired(waiter.claimer.worker_id))

    def is_retired(self, worker_id: str) -> bool:
        return worker_id in self._retired

    def retire(self, worker_id: str) -> None:
        """Ends the waits of a worker, now and later. Remembers the last workers only: names are not used again."""
        self._retired[worker_id] = None
        if len(self._retired) > RETIRED_REMEMBERED:
            del self._retired[next(iter(self._retired))]
        for waiter in self._waiters:
            if waiter.claimer.worker_id == worker_id:
                waiter.dismiss()

    def close(self) -> None:
        self._is_closed = True
        for waiter in self._waiters:
            waiter.dismiss()
