"""What callers and the clock do to jobs: creation, reports, aborts and the passing of time, as changes to a `UnitOfWork`.

Each operation checks everything first and changes something only when it will succeed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from jobs_svc.events import Note, StateChange, Text, gathered
from jobs_svc.job import Ended, Ending, Job, LiveJob, NewJob, Phase, lane_of
from jobs_svc.unit_of_work import UnitOfWork
from svc_common.endings import EndReason, JobState
from svc_common.errors import ErrorReason, ServiceError, invalid_field

_SWEPT_LEASE = "the worker stopped reporting and its lease ran out"


@dataclass(frozen=True, slots=True)
class CreateJobs:
    """Creates all jobs or none. A limit of 0 is none; `claim_for` is a worker id or empty; a claim id makes that safe to repeat."""

    jobs: Sequence[NewJob]
    claim_for: str = ""
    claim_id: str = ""
    max_unfinished_roots_of_tenant: int = 0
    max_unfinished_roots: int = 0


@dataclass(slots=True)
class Lease:
    """A job with the right to work on it."""

    job: Job
    fencing_token: int
    expire_time: int


@dataclass(frozen=True, slots=True)
class Created:
    """A job as it stands, and whether this call made it."""

    job: Job
    created: bool
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Success:
    result: bytes = b""
    is_partial: bool = False
    reason: EndReason = EndReason.NONE


@dataclass(frozen=True, slots=True)
class Failure:
    reason: EndReason
    message: str = ""
    retryable: bool = False
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class Release:
    """The lease is given back; `delay` is in microseconds."""

    delay: int = 0


Outcome = Success | Failure | Release


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's news about one lease."""

    job_id: str
    fencing_token: int
    events: Sequence[Text | Note] = ()
    checkpoint: bytes = b""
    outcome: Outcome | None = None
    number: int = 0


class Disposition(IntEnum):
    """Numbers are those of `ReportResult.Disposition`."""

    ACCEPTED = 1
    STALE = 2
    JOB_ENDED = 3
    NOT_FOUND = 4


@dataclass(frozen=True, slots=True)
class Reported:
    """What came of a report; `expire_time` of the lease when it goes on."""

    disposition: Disposition
    expire_time: int = 0


@dataclass(frozen=True, slots=True)
class AbortJobs:
    job_ids: Sequence[str]
    reason: EndReason = EndReason.CANCELLED
    message: str = ""


@dataclass(frozen=True, slots=True)
class RootCounts:
    """Unfinished roots by kind and tenant, for the kinds whose number is limited. Mutable inside."""

    roots: Counter[tuple[str, str]]

    def admit(self, op: CreateJobs, new: Sequence[Job]) -> None:
        """Counts the new roots in. Raises OVERLOADED when they exceed the call's limits."""
        asked = Counter((job.kind, job.tenant) for job in new if not job.parent_id)
        for (kind, tenant), number in asked.items():
            of_tenant = self.roots[kind, tenant] + number
            of_all = sum((self.roots + asked)[key] for key in self.roots | asked if key[0] == kind)
            if 0 < op.max_unfinished_roots_of_tenant < of_tenant or 0 < op.max_unfinished_roots < of_all:
                raise ServiceError(
                    ErrorReason.OVERLOADED,
                    f"{of_tenant - number} jobs of kind {kind!r} of this tenant are unfinished, and {of_all - number} of all",
                    retry_after=1.0,
                )
        self.roots.update(asked)


class Ages:
    """Gives each new job a time of creation of its own, which is also its age, also within a microsecond."""

    def __init__(self) -> None:
        self._last = 0

    def reach(self, now: int) -> None:
        self._last = max(self._last, now - 1)

    def next(self) -> int:
        self._last += 1
        return self._last


def create(uow: UnitOfWork, op: CreateJobs, roots: RootCounts, ages: Ages) -> list[Created]:
    planned: dict[str, Job] = {}
    for number, new in enumerate(op.jobs):
        known = planned.get(new.id) or uow.jobs.get(new.id)
        if known is None:
            planned[new.id] = _plan(uow, new, planned, f"jobs[{number}]", ages.next())
        elif not _is_same(known, new):
            raise ServiceError(ErrorReason.JOB_CONFLICT, f"job {new.id} exists with other content")
    if op.max_unfinished_roots_of_tenant or op.max_unfinished_roots:
        roots.admit(op, list(planned.values()))
    for job in planned.values():
        _start(uow, job, op)
    return [_created(uow, new.id, planned.pop(new.id, None) is not None, op) for new in op.jobs]


def _plan(uow: UnitOfWork, new: NewJob, planned: dict[str, Job], field: str, create_time: int) -> Job:
    root_id, tenant, deadline = new.id, new.tenant, new.deadline
    if new.parent_id:
        root_id, tenant, parents_deadline = _parent(uow, new.parent_id, planned)
        deadline = min(deadline, parents_deadline)
        if new.tenant not in ("", tenant):
            raise invalid_field(f"{field}.tenant", "must be that of the parent or empty")
    elif not tenant:
        raise invalid_field(f"{field}.tenant", "must not be empty for a root")
    if new.deadline <= uow.now:
        raise invalid_field(f"{field}.deadline", "must be in the future")
    return Job(
        id=new.id,
        root_id=root_id,
        parent_id=new.parent_id,
        tenant=tenant,
        kind=new.kind,
        payload=new.payload,
        priority=new.priority,
        traceparent=new.traceparent,
        labels=new.labels,
        create_time=create_time,
        not_before=new.not_before,
        deadline=deadline,
        max_attempts=new.max_attempts or uow.policy.default_max_attempts,
    )


def _parent(uow: UnitOfWork, parent_id: str, planned: dict[str, Job]) -> tuple[str, str, int]:
    """Root id, tenant and deadline of a parent that can take children."""
    match planned.get(parent_id) or uow.find(parent_id):
        case Job() | LiveJob() as parent:
            return parent.root_id, parent.tenant, parent.deadline
        case Ended():
            raise ServiceError(ErrorReason.JOB_ENDED, f"job {parent_id} has ended and takes no further children")
    raise ServiceError(ErrorReason.JOB_NOT_FOUND, f"no job has the id {parent_id}, named as parent")


def _is_same(known: Job, new: NewJob) -> bool:
    """Whether the job is the one asked for. How urgent it is may differ: one who resumes has less time left."""
    return (known.parent_id, known.kind, known.payload) == (new.parent_id, new.kind, new.payload) and new.tenant in (
        known.tenant,
        "",
    )


def _start(uow: UnitOfWork, job: Job, op: CreateJobs) -> None:
    is_delayed = job.not_before > uow.now and not op.claim_for
    live = LiveJob(
        id=job.id,
        root_id=job.root_id,
        parent_id=job.parent_id,
        lane=lane_of(job.kind, job.priority, job.tenant),
        create_time=job.create_time,
        deadline=job.deadline,
        max_attempts=job.max_attempts,
        payload_bytes=len(job.payload),
        phase=Phase.DELAYED if is_delayed else Phase.READY,
        due_time=max(job.not_before, uow.now),
    )
    uow.add(job, live)
    if op.claim_for:
        uow.lease(live, op.claim_for, op.claim_id)
    else:
        uow.append(live, StateChange(job.kind, JobState.QUEUED))


def _created(uow: UnitOfWork, job_id: str, is_new: bool, op: CreateJobs) -> Created:
    job = uow.jobs[job_id]
    live = uow.live.get(job_id)
    if live is None:
        return Created(job, is_new)
    job.stands_as(live)
    is_repeat = live.phase is Phase.RUNNING and op.claim_id != "" and live.claim_id == op.claim_id
    if not op.claim_for or not (is_new or is_repeat):
        return Created(job, is_new)
    uow.renew(live)
    return Created(job, is_new, Lease(job, live.fencing_token, live.lease_expire_time))


def report(uow: UnitOfWork, news: Report) -> Reported:
    job = uow.find(news.job_id)
    if not isinstance(job, LiveJob):
        return Reported(_disposition_of_ended(job, news))
    if job.phase is not Phase.RUNNING or news.fencing_token != job.fencing_token:
        is_repeat = news.outcome is not None and news.fencing_token == job.closed_token
        return Reported(Disposition.ACCEPTED if is_repeat else Disposition.STALE)
    if 0 < news.number <= job.report_number:
        return Reported(Disposition.ACCEPTED, job.lease_expire_time)
    job.report_number = max(job.report_number, news.number)
    for body in gathered(news.events):
        uow.append(job, body)
    if news.checkpoint:
        uow.save(job, news.checkpoint)
    if news.outcome is not None:
        _close(uow, job, news.outcome)
        return Reported(Disposition.ACCEPTED)
    uow.renew(job)
    return Reported(Disposition.ACCEPTED, job.lease_expire_time)


def _disposition_of_ended(job: Ended | None, news: Report) -> Disposition:
    if job is None:
        return Disposition.NOT_FOUND
    if news.fencing_token != job.fencing_token:
        return Disposition.STALE
    is_repeat = news.outcome is not None and news.fencing_token == job.end_token
    return Disposition.ACCEPTED if is_repeat else Disposition.JOB_ENDED


def _close(uow: UnitOfWork, job: LiveJob, outcome: Outcome) -> None:
    token = job.fencing_token
    job.closed_token = token
    match outcome:
        case Success():
            uow.end(job, Ending(JobState.SUCCEEDED, outcome.reason, outcome.is_partial, outcome.result, token=token))
        case Release():
            # The attempt is not counted, and its number is the next lease's.
            uow.requeue(job, outcome.delay, EndReason.NONE, "the worker gave the lease back")
            job.attempt -= 1
        case Failure():
            uow.fail(job, outcome.reason, outcome.message)
            delay = uow.policy.backoff(job.attempt)
            if outcome.retryable and job.attempt < job.max_attempts and uow.now + delay < job.deadline:
                uow.requeue(job, delay, outcome.reason, outcome.message)
            else:
                ending = Ending(
                    JobState.FAILED, outcome.reason, bool(outcome.result), outcome.result, outcome.message, token
                )
                uow.end(job, ending)


def abort(uow: UnitOfWork, op: AbortJobs) -> int:
    """Returns how many jobs were ended, descendants included."""
    for job_id in op.job_ids:
        if uow.find(job_id) is None:
            raise ServiceError(ErrorReason.JOB_NOT_FOUND, f"no job has the id {job_id}")
    before = len(uow.ended)
    for job_id in op.job_ids:
        if job := uow.live.get(job_id):
            uow.end(job, Ending(JobState.ABORTED, op.reason, message=op.message))
    return len(uow.ended) - before


def pass_time(uow: UnitOfWork, job: LiveJob) -> None:
    """Does to a job what its `wake_time` was for, if it is due."""
    if job.deadline <= uow.now:
        uow.end(job, Ending(JobState.ABORTED, EndReason.TIMEOUT, message="its deadline passed"))
    elif job.phase is Phase.DELAYED and job.due_time <= uow.now:
        uow.move(job, Phase.READY)
    elif job.phase is Phase.RUNNING and job.lease_expire_time <= uow.now:
        _expire(uow, job)


def _expire(uow: UnitOfWork, job: LiveJob) -> None:
    uow.fail(job, EndReason.INTERNAL_ERROR, _SWEPT_LEASE)
    if job.attempt < job.max_attempts:
        uow.stop(job, EndReason.INTERNAL_ERROR)
        uow.requeue(job, 0, EndReason.INTERNAL_ERROR, _SWEPT_LEASE)
    else:
        message = f"{job.attempt} attempts ended without a result; at the last one {_SWEPT_LEASE}"
        uow.end(job, Ending(JobState.FAILED, EndReason.INTERNAL_ERROR, message=message))
