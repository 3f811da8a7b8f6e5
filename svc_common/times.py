"""Time, inside as whole microseconds since the Unix epoch (int), on the wire as Timestamp and Duration.

Integers compare, add and store alike in Python, SQLite and PostgreSQL; zero stands for "not set", as an unset Timestamp does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

MICROS = 1_000_000
DAY = 24 * 3600 * MICROS

Clock = Callable[[], int]
"""Returns the present as microseconds since the Unix epoch."""


def now() -> int:
    return time.time_ns() // 1000


def seconds_until(micros: int) -> float:
    """Negative for what is past."""
    return (micros - now()) / MICROS


def to_timestamp(micros: int) -> Timestamp | None:
    """The Timestamp of a time, or None (leave the field unset) for zero."""
    if not micros:
        return None
    return Timestamp(seconds=micros // MICROS, nanos=micros % MICROS * 1000)


def from_timestamp(timestamp: Timestamp) -> int:
    return timestamp.seconds * MICROS + timestamp.nanos // 1000


def to_duration(micros: int) -> Duration:
    return duration_from_seconds(micros / MICROS)


def from_duration(duration: Duration) -> int:
    return duration.seconds * MICROS + duration.nanos // 1000


def duration_from_seconds(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * MICROS))
    return duration
