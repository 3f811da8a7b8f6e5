"""How many jobs of each kind wait and run, kept in memory from what is committed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from jobs_svc.job import Phase


@dataclass(frozen=True, slots=True)
class KindCounts:
    due: int
    delayed: int
    running: int


class Counters:
    """Exact for one replica. What others commit comes in by their signals, and for certain when all is counted anew."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Phase]] = Counter()
        self._watches: set[asyncio.Event] = set()

    def reset(self, counts: Mapping[tuple[str, Phase], int]) -> None:
        grown = Counter(counts) - self._counts
        self._counts = Counter(counts)
        self._tell(grown)

    def add(self, moved: Mapping[tuple[str, Phase], int]) -> None:
        self._counts.update(moved)
        self._tell(moved)

    def of(self, kind: str) -> KindCounts:
        due, delayed, running = (max(0, self._counts[kind, phase]) for phase in Phase)
        return KindCounts(due, delayed, running)

    @property
    def kinds(self) -> Collection[str]:
        return sorted({kind for (kind, _), number in self._counts.items() if number > 0})

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever jobs become due."""
        grown = asyncio.Event()
        self._watches.add(grown)
        try:
            yield grown
        finally:
            self._watches.discard(grown)

    def _tell(self, moved: Mapping[tuple[str, Phase], int]) -> None:
        if self._watches and any(number > 0 for (_, phase), number in moved.items() if phase is Phase.READY):
            for grown in self._watches:
                grown.set()
