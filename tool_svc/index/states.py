"""States of an index that calls may still ask for, so that all calls of a request see the files as its first one did."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tool_svc.index.view import IndexView
from tool_svc.workspace.source import Listing

KEPT_SECONDS = 300.0  # the longest time of a request
MAX_KEPT = 8
# SQLite cannot begin its write-ahead log anew while a state in it is read.
MAX_LOG_BYTES = 64 * 1024 * 1024


@dataclass(eq=False)
class State:
    """One state: its view, and the listing that it was made from. `users` are those who have taken it."""

    view: IndexView
    listing: Callable[[], Listing]
    last_use: float = 0.0
    users: int = 0


class KeptStates:
    """Hands out states of the index at `path`; one that was handed out stays for a while. Thread-safe."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = path.with_name(f"{path.name}-wal")
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[str, State] = {}

    def take(self, id_: str) -> State | None:
        """The state of this id if it is kept. Whoever takes one gives it back."""
        with self._lock:
            state = self._states.get(id_)
            return None if state is None else self._taken(state)

    def keep(self, view: IndexView, listing: Callable[[], Listing]) -> State:
        """Takes a new state and keeps it; one of the same contents that was kept already gives way to it."""
        with self._lock:
            if (known := self._states.pop(view.id, None)) is not None and not known.users:
                known.view.close()
            state = self._states[view.id] = State(view, listing)
            self._taken(state)
            self._drop_old()
            return state

    def give_back(self, state: State) -> None:
        with self._lock:
            state.users -= 1
            if not state.users and self._states.get(state.view.id) is not state:
                state.view.close()

    def drop(self) -> None:
        """Forgets all states, so that SQLite may begin its log anew."""
        with self._lock:
            for state in self._states.values():
                if not state.users:
                    state.view.close()
            self._states.clear()

    def _taken(self, state: State) -> State:
        state.users += 1
        state.last_use = self._clock()
        return state

    def _drop_old(self) -> None:
        """Forgets what was not asked for lately; who still uses such a state closes it in the end."""
        newest_first = sorted(self._states.items(), key=lambda item: item[1].last_use, reverse=True)
        most = MAX_KEPT if _size(self._log) < MAX_LOG_BYTES else 1
        since = self._clock() - KEPT_SECONDS
        for rank, (id_, state) in enumerate(newest_first):
            if rank >= most or state.last_use < since:
                del self._states[id_]
                if not state.users:
                    state.view.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
