"""How many jobs of each kind wait and run, kept in memory from what is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from jobs_svc.job import Phase


@dataclass(frozen=True, slots=True)
class KindCounts:
    due: int
    delayed: int
    running: int


class Counters:
    """Exact for one replica; what other replicas commit comes in when the counters are reset from the store."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Phase]] = Counter()

    def reset(self, counts: Mapping[tuple[str, Phase], int]) -> None:
        self._counts = Counter(counts)

    def add(self, moved: Mapping[tuple[str, Phase], int]) -> None:
        self._counts.update(moved)

    @property
    def kinds(self) -> Collection[str]:
        return sorted({kind for (kind, _), number in self._counts.items() if number > 0})

    def of(self, kind: str) -> KindCounts:
        due, delayed, running = (max(0, self._counts[kind, phase]) for phase in Phase)
        return KindCounts(due, delayed, running)
