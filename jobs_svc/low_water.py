"""Where the oldest ready job of each lane may be, so that claims need not search where there is none any more.

PostgreSQL's index keeps the entries of jobs that are gone for as long as a snapshot is open that could see them, and a search from
the beginning of a lane goes through all of them each time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from jobs_svc.job import LiveJob, parse_lane
from jobs_svc.turns import WaitingJob
from svc_common.times import MICROS

LOOK_AT_ALL_EVERY = 1 * MICROS


class LowWater:
    """By lane, an age below which no job is ready, as far as this replica knows.

    Other replicas make jobs ready, too. What they say of it, and time, makes us look at everything again.
    """

    def __init__(self) -> None:
        self._marks: dict[str, dict[str, int]] = {}  # by kind and lane
        self._looked: dict[str, int] = {}  # when all lanes of a kind were looked at

    def knows(self, kinds: Iterable[str], now: int) -> bool:
        """Whether all of these kinds were looked at lately."""
        return all(now - self._looked.get(kind, -LOOK_AT_ALL_EVERY) < LOOK_AT_ALL_EVERY for kind in kinds)

    def marks_of(self, kinds: Iterable[str]) -> dict[str, int]:
        """By lane, where to begin."""
        marks: dict[str, int] = {}
        for kind in kinds:
            marks.update(self._marks.get(kind, {}))
        return marks

    def look_at_all(self, kinds: Iterable[str], now: int) -> None:
        """All lanes of these kinds are about to be searched from their beginning. Call before: what is told meanwhile is news."""
        for kind in kinds:
            self._marks[kind] = {}
            self._looked[kind] = now

    def forget(self) -> None:
        """Somebody else may have made jobs ready, or what was settled was not committed. May be called in any thread."""
        self._looked = {}

    def lower(self, readied: Iterable[LiveJob]) -> None:
        """These jobs are ready now."""
        for job in readied:
            marks = self._marks.setdefault(job.kind, {})
            marks[job.lane] = min(job.create_time, marks.get(job.lane, job.create_time))

    def settle(self, waiting: Iterable[WaitingJob], leased: Collection[str]) -> None:
        """Of the oldest jobs of their lanes these were leased: the first that was not is where to begin, or else the last."""
        left: set[str] = set()
        for job in waiting:
            if job.lane not in left:
                self._marks.setdefault(parse_lane(job.lane)[0], {})[job.lane] = job.age
                if job.id not in leased:
                    left.add(job.lane)
