"""The figures by which the queue decides, fixed for the life of a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from svc_common.times import MICROS

ANY_KIND = "*"


@dataclass(frozen=True, slots=True)
class Policy:
    """Durations are microseconds. Limits by kind map a kind, or "*" for each kind not named, to a number of running jobs."""

    lease_time: int = 6 * MICROS
    heartbeat_interval: int = 2 * MICROS
    retry_delay: int = MICROS // 2
    max_retry_delay: int = 30 * MICROS
    default_max_attempts: int = 3
    # Over all tenants, and for each tenant. A job leased as it is created is counted but not held back.
    kind_limits: Mapping[str, int] = field(default_factory=dict)
    tenant_limits: Mapping[str, int] = field(default_factory=dict)
    # Of all kinds together, for each tenant.
    tenant_limit: int | None = None

    @property
    def has_limits(self) -> bool:
        return bool(self.kind_limits or self.tenant_limits or self.tenant_limit is not None)

    def backoff(self, attempt: int) -> int:
        """The delay after the given attempt (from 1) failed: doubling from `retry_delay`."""
        return min(self.retry_delay << min(attempt - 1, 30), self.max_retry_delay)


def limit_of(limits: Mapping[str, int], kind: str) -> int | None:
    """The limit for a kind; None when there is none."""
    return limits.get(kind, limits.get(ANY_KIND))
