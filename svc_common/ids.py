"""Ids: random ones that sort by time, and derived ones that a replay finds again."""

from __future__ import annotations

import hashlib
import os
import socket
import time


def new_id() -> str:
    """A unique id of 32 hex digits that sorts by creation (the layout of a UUID version 7, RFC 9562, without dashes)."""
    millis = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (millis << 80) | (0x7 << 76) | ((random >> 64 & 0xFFF) << 64) | (0b10 << 62) | (random & (1 << 62) - 1)
    return f"{value:032x}"


def derived_id(parent: str, *parts: str) -> str:
    """The id of a piece of work within another, the same whenever the same parts are given: `<parent>.<16 hex digits>`."""
    digest = hashlib.sha256("\n".join((parent, *parts)).encode()).hexdigest()
    return f"{parent}.{digest[:16]}"


def process_name(role: str) -> str:
    """A name for this process that no other running one has: role, host, process id and a random part."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
