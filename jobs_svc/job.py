"""What a job is: the work its creator asked for, and how it stands.

Times are epoch microseconds, zero when not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

from svc_common.endings import EndReason, JobState

MAX_ATTEMPT_ERRORS = 20
_LANE_PRIORITIES = 1000  # priorities run from -1000 to 1000


class Phase(IntEnum):
    """Where an unfinished job is. READY and DELAYED are both QUEUED to the outside."""

    READY = 1
    DELAYED = 2
    RUNNING = 3


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as its creator describes it; empty and zero values stand for the documented defaults."""

    id: str
    kind: str
    deadline: int
    parent_id: str = ""
    tenant: str = ""
    payload: bytes = b""
    priority: int = 0
    not_before: int = 0
    max_attempts: int = 0
    traceparent: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AttemptError:
    """How one attempt ended that did not end the job well."""

    attempt: int
    reason: EndReason
    message: str
    time: int


@dataclass(slots=True)
class Job:
    """A job as readers see it."""

    id: str
    root_id: str
    parent_id: str
    tenant: str
    kind: str
    payload: bytes
    priority: int
    traceparent: str
    labels: Mapping[str, str]
    create_time: int
    not_before: int
    deadline: int
    max_attempts: int
    checkpoint: bytes = b""
    state: JobState = JobState.QUEUED
    end_reason: EndReason = EndReason.NONE
    is_partial: bool = False
    result: bytes = b""
    error_message: str = ""
    attempt: int = 0
    start_time: int = 0
    end_time: int = 0
    last_sequence: int = 0
    fencing_token: int = 0
    # Token of the lease whose own report ended the job; 0 when it ended from outside.
    end_token: int = 0
    attempt_errors: tuple[AttemptError, ...] = ()

    def stands_as(self, live: LiveJob) -> Job:
        """This job with the standing of its unfinished self; changes and returns it."""
        self.state = JobState.RUNNING if live.phase is Phase.RUNNING else JobState.QUEUED
        self.attempt = live.attempt
        self.start_time = live.start_time
        self.last_sequence = live.last_sequence
        self.fencing_token = live.fencing_token
        return self


@dataclass(slots=True)
class LiveJob:
    """The standing of an unfinished job: what changes while it waits and runs. It is mutable within one transaction."""

    id: str
    root_id: str
    parent_id: str
    lane: str
    create_time: int
    deadline: int
    max_attempts: int
    payload_bytes: int
    phase: Phase = Phase.READY
    due_time: int = 0
    attempt: int = 0
    # Grows with each lease; the current lease's token while RUNNING, the last one's otherwise.
    fencing_token: int = 0
    # Token of the last lease that its own report gave up, by a failure or a release.
    closed_token: int = 0
    # Number of the last numbered report of the current or last lease.
    report_number: int = 0
    worker_id: str = ""
    lease_expire_time: int = 0
    start_time: int = 0
    # Of roots: last position in the event log, and whether the log holds text that compaction can merge.
    last_sequence: int = 0
    has_text: bool = False
    # The claim that the current lease answers; empty when it had no id.
    claim_id: str = ""
    checkpoint_bytes: int = 0

    @property
    def kind(self) -> str:
        return parse_lane(self.lane)[0]

    @property
    def tenant(self) -> str:
        return parse_lane(self.lane)[2]

    @property
    def wake_time(self) -> int:
        """When something happens to the job by itself: its deadline, the end of its lease or of its delay."""
        if self.phase is Phase.RUNNING:
            return min(self.deadline, self.lease_expire_time)
        if self.phase is Phase.DELAYED:
            return min(self.deadline, self.due_time)
        return self.deadline


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended."""

    state: JobState
    reason: EndReason = EndReason.NONE
    is_partial: bool = False
    result: bytes = b""
    message: str = ""
    # The lease whose report ended it; 0 from outside.
    token: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a job that has ended: the token of its last lease, and of the lease whose report ended it."""

    fencing_token: int
    end_token: int


@dataclass(frozen=True, slots=True)
class Stop:
    """A lease that is over while its worker may not know."""

    worker_id: str
    job_id: str
    fencing_token: int
    reason: EndReason
    time: int


@lru_cache(4096)
def lane_of(kind: str, priority: int, tenant: str) -> str:
    """The lane of equal claims that a job waits in. Lanes of a kind sort by urgency, most urgent first."""
    return f"{kind}/{_LANE_PRIORITIES - priority:04d}/{tenant}"


@lru_cache(4096)
def parse_lane(lane: str) -> tuple[str, int, str]:
    """Kind, rank (smaller is more urgent) and tenant of a lane."""
    kind, rank, tenant = lane.split("/", 2)
    return kind, int(rank), tenant
