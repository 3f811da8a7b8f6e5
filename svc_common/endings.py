"""How work stands and why it ended: the domain's names for `dbp.common.v1.JobState` and `EndReason` (documented there)."""

from __future__ import annotations

from enum import IntEnum


class JobState(IntEnum):
    """Numbers are those of the proto, so that a conversion is a cast; a test keeps the two alike."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    ABORTED = 5

    @property
    def is_terminal(self) -> bool:
        return self >= JobState.SUCCEEDED


class EndReason(IntEnum):
    """Why work ended before it was complete; NONE when nothing cut it short."""

    NONE = 0
    TIMEOUT = 1
    BUDGET_EXCEEDED = 2
    INTERNAL_ERROR = 3
    LLM_ERROR = 4
    CANCELLED = 5
