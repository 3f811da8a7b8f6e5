"""How long a busy machine keeps those waiting who only want to wake up: what it adds to every delay that is measured on it."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from types import TracebackType

from svc_common.times import MICROS, now

_SLEEP_SECONDS = 0.002


class LagProbe:
    """Sleeps and wakes in a thread of its own while its block lasts, and keeps by how much each sleep was too long."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._excess: list[int] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag-probe", daemon=True)

    def __enter__(self) -> LagProbe:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def within(self, began: int, ended: int) -> int:
        """For how many microseconds between two times (epoch microseconds) the machine did not let the probe run."""
        first = bisect_left(self._ends, began)
        total = 0
        for end, excess in zip(self._ends[first:], self._excess[first:], strict=True):
            total += max(0, min(end, ended) - max(end - excess, began))
            if end >= ended:
                break
        return total

    def _run(self) -> None:
        before = now()
        while not self._stopping.is_set():
            time.sleep(_SLEEP_SECONDS)
            after = now()
            excess = after - before - int(_SLEEP_SECONDS * MICROS)
            if excess > 0:
                self._ends.append(after)
                self._excess.append(excess)
            before = after
