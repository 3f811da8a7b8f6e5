"""The line of those who wait for room: who goes next, and who has to let others go first.

First come, first served within a priority, at each level (a budget, or a model's rate) by itself: who waits for room in one job's
budget does not hold up another job. Conclusions wait only for conclusions, since they have room that others may not use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, Protocol, TypeVar


class Place(Protocol):
    """What the line must know of one who waits. `level` is where it was refused last."""

    @property
    def priority(self) -> int: ...
    @property
    def is_conclusion(self) -> bool: ...
    @property
    def level(self) -> str: ...


P = TypeVar("P", bound=Place)


@dataclass(slots=True)
class Line(Generic[P]):
    """Those who wait, in the order in which they came."""

    _arrivals: dict[int, P] = field(default_factory=dict)
    _numbers: Callable[[], int] = field(default_factory=lambda: count().__next__)

    def __len__(self) -> int:
        return len(self._arrivals)

    def __iter__(self) -> Iterator[P]:
        return iter(list(self._arrivals.values()))

    def join(self, place: P) -> int:
        """Takes a place at the end; returns the number by which to leave."""
        number = self._numbers()
        self._arrivals[number] = place
        return number

    def leave(self, number: int) -> None:
        self._arrivals.pop(number, None)

    def levels(self) -> set[str]:
        return {place.level for place in self._arrivals.values()}

    def levels_ahead_of(self, priority: int, is_conclusion: bool) -> frozenset[str]:
        """Where a newcomer must let others go first."""
        return frozenset(
            place.level
            for place in self._arrivals.values()
            if place.priority >= priority and (place.is_conclusion or not is_conclusion)
        )

    def turns(self, levels: Iterable[str], most: int) -> list[tuple[P, frozenset[str]]]:
        """Those who wait at these levels, at most so many of each, in the order of their turn.

        Each comes with the levels at which others are ahead of it who are not among them.
        """
        wanted = dict.fromkeys(levels, most)
        ahead: set[str] = set()
        turns = []
        for _, place in sorted(self._arrivals.items(), key=_turn):
            if wanted.get(place.level, 0) > 0:
                wanted[place.level] -= 1
                turns.append((place, frozenset(ahead)))
            else:
                ahead.add(place.level)
        return turns


def _turn(arrival: tuple[int, Place]) -> tuple[bool, int, int]:
    number, place = arrival
    return (not place.is_conclusion, -place.priority, number)
