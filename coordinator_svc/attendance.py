"""Who listens to the requests that this process took in, so that work for nobody is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field


@dataclass
class _Audience:
    """`patience` is how many seconds the last caller to leave wished to be waited for."""

    callers: set[object] = field(default_factory=set)
    watchers: set[object] = field(default_factory=set)
    patience: float = 0.0
    giving_up: asyncio.TimerHandle | None = None


class Attendance:
    """Calls `give_up` with a request's id when its last caller has left and none has come back within the time it asked for.

    It knows of this process alone: a caller that comes back to another coordinator is not seen.
    """

    def __init__(self, give_up: Callable[[str], None]) -> None:
        self._give_up = give_up
        self._audiences: dict[str, _Audience] = {}
        self._is_closed = False

    def caller(self, request_id: str, patience: float) -> AbstractContextManager[None]:
        """While a caller listens. An exception out of the block means that it left before the request had ended."""
        audience = self._audiences.setdefault(request_id, _Audience())
        return self._listening(request_id, audience, patience)

    def watcher(self, request_id: str) -> AbstractContextManager[None]:
        """While somebody watches, who may be a caller that has lost its first connection."""
        audience = self._audiences.get(request_id)
        return nullcontext() if audience is None else self._listening(request_id, audience, None)

    def missed(self, request_id: str, patience: float) -> None:
        """A caller left before its request was taken in."""
        audience = self._audiences.setdefault(request_id, _Audience())
        audience.patience = patience
        self._left(request_id, audience)

    def close(self) -> None:
        """From now on no caller leaves: it is this process that leaves them, and another one goes on with their requests."""
        self._is_closed = True
        for audience in self._audiences.values():
            _keep(audience)

    @contextmanager
    def _listening(self, request_id: str, audience: _Audience, patience: float | None) -> Iterator[None]:
        """`patience` is None for a watcher."""
        listeners = audience.watchers if patience is None else audience.callers
        me = object()
        listeners.add(me)
        _keep(audience)
        try:
            yield
        except BaseException:
            listeners.discard(me)
            audience.patience = audience.patience if patience is None else patience
            self._left(request_id, audience)
            raise
        self._audiences.pop(request_id, None)

    def _left(self, request_id: str, audience: _Audience) -> None:
        # A watcher may be the caller come back, if that meant to.
        is_heard = audience.callers or (audience.watchers and audience.patience)
        if is_heard or self._is_closed or self._audiences.get(request_id) is not audience:
            return
        _keep(audience)
        if audience.patience:
            loop = asyncio.get_running_loop()
            audience.giving_up = loop.call_later(audience.patience, self._expire, request_id)
        else:
            self._expire(request_id)

    def _expire(self, request_id: str) -> None:
        del self._audiences[request_id]
        self._give_up(request_id)


def _keep(audience: _Audience) -> None:
    if audience.giving_up:
        audience.giving_up.cancel()
        audience.giving_up = None
