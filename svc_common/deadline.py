"""The one deadline of the work at hand, absolute and inherited by every call made on its behalf.

A server interceptor sets it from the caller's gRPC deadline, a worker from its job; the client interceptor reads it. It lives in
a ContextVar, so that tasks started for a piece of work inherit it without passing it along.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS, Clock, now

_current: ContextVar[int | None] = ContextVar("deadline", default=None)

# A callee answers this much before its caller stops listening.
MARGIN_SECONDS = 0.005


def current() -> int | None:
    """The deadline of the work at hand in epoch microseconds, or None outside of any."""
    return _current.get()


def remaining(clock: Clock = now) -> float | None:
    """Seconds left (negative when past), or None when there is no deadline."""
    deadline = _current.get()
    return None if deadline is None else (deadline - clock()) / MICROS


def set_current(deadline: int) -> None:
    """Sets the deadline for the rest of this task: the earlier of the given one and the one that holds."""
    held = _current.get()
    _current.set(deadline if held is None else min(held, deadline))


@contextmanager
def scope(deadline: int) -> Iterator[None]:
    """Sets the deadline for a block, never later than the one that holds already."""
    held = _current.get()
    token = _current.set(deadline if held is None else min(held, deadline))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def lifted(seconds: float) -> Iterator[None]:
    """A deadline of its own for a block that must be done even when the one that holds has passed: settling what was used."""
    token = _current.set(now() + int(seconds * MICROS))
    try:
        yield
    finally:
        _current.reset(token)


def bounded(timeout: float | None) -> float | None:
    """The timeout for a call made now: the wished one, cut to what is left. Raises when nothing is left."""
    cut = cut_short(timeout)
    if cut is not None and cut <= 0:
        raise ServiceError(ErrorReason.DEADLINE_EXCEEDED, "the deadline leaves no time for a further call")
    return cut


def cut_short(timeout: float | None) -> float | None:
    """Like `bounded`, but 0 when nothing is left."""
    left = remaining()
    if left is None:
        return timeout
    left = max(0.0, left - MARGIN_SECONDS)
    return left if timeout is None else min(timeout, left)
