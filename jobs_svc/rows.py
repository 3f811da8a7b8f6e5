"""Between rows of the tables and the domain's objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from jobs_svc.events import Body, Event, Note, StateChange, Text
from jobs_svc.job import AttemptError, Ending, Job, LiveJob, Phase, Stop, parse_lane
from svc_common.endings import EndReason, JobState

_STATE, _TEXT, _NOTE = 1, 2, 3
_PHASES = (Phase.READY, *Phase)  # by number, which is quicker than asking the enum

LIVE_FIELDS = (
    "id",
    "root_id",
    "parent_id",
    "lane",
    "create_time",
    "deadline",
    "max_attempts",
    "payload_bytes",
    "phase",
    "due_time",
    "attempt",
    "fencing_token",
    "closed_token",
    "report_number",
    "worker_id",
    "lease_expire_time",
    "start_time",
    "last_sequence",
    "has_text",
    "claim_id",
    "checkpoint_bytes",
)
live_values = attrgetter(*LIVE_FIELDS, "wake_time")
LIVE_COLUMNS = (*LIVE_FIELDS, "wake_time")

# What a worker is given beside the standing.
CLAIMED_COLUMNS = ("payload", "priority", "traceparent", "labels", "not_before", "checkpoint")

# What readers see of the standing.
SHOWN_STANDING = ("phase", "attempt", "start_time", "last_sequence", "fencing_token")

# What changes in the life of a row of `live`.
STANDING_COLUMNS = LIVE_COLUMNS[LIVE_COLUMNS.index("phase") :]
standing_values = attrgetter("id", *STANDING_COLUMNS)

JOB_COLUMNS = (
    "id",
    "root_id",
    "parent_id",
    "tenant",
    "kind",
    "payload",
    "priority",
    "traceparent",
    "labels",
    "create_time",
    "not_before",
    "deadline",
    "max_attempts",
    "checkpoint",
    "state",
    "end_reason",
    "is_partial",
    "result",
    "error_message",
    "attempt",
    "start_time",
    "end_time",
    "last_sequence",
    "fencing_token",
    "end_token",
)
ENDING_COLUMNS = JOB_COLUMNS[JOB_COLUMNS.index("state") :]

EVENT_COLUMNS = ("root_id", "sequence", "first_sequence", "time", "job_id", "type", "name", "data", "pieces")
STOP_COLUMNS = ("worker_id", "time", "job_id", "fencing_token", "reason")
AUDIT_COLUMNS = ("root_id", "sequence", "time", "job_id", "record_json", "previous_hash", "hash", "append_id")
ATTEMPT_ERROR_COLUMNS = ("job_id", "time", "attempt", "reason", "message")


def live_job(row: Sequence[Any]) -> LiveJob:
    """From the columns of LIVE_FIELDS."""
    job = LiveJob(*row)
    job.phase = _PHASES[job.phase]
    return job


def claimed_job(row: Sequence[Any]) -> tuple[LiveJob, Job | None]:
    """From the columns of LIVE_FIELDS and CLAIMED_COLUMNS; the latter are None of a root that comes along."""
    live = live_job(row[: len(LIVE_FIELDS)])
    if row[-1] is None:
        return live, None
    payload, priority, traceparent, labels, not_before, checkpoint = row[len(LIVE_FIELDS) :]
    kind, _, tenant = parse_lane(live.lane)
    job = Job(
        live.id,
        live.root_id,
        live.parent_id,
        tenant,
        kind,
        payload,
        priority,
        traceparent,
        json.loads(labels) if labels else {},
        live.create_time,
        not_before,
        live.deadline,
        live.max_attempts,
        checkpoint=checkpoint,
    )
    return live, job


def job_values(job: Job) -> tuple[Any, ...]:
    return (
        job.id,
        job.root_id,
        job.parent_id,
        job.tenant,
        job.kind,
        job.payload,
        job.priority,
        job.traceparent,
        json.dumps(dict(job.labels)) if job.labels else "",
        job.create_time,
        job.not_before,
        job.deadline,
        job.max_attempts,
        b"",
        0,
        0,
        False,
        b"",
        "",
        0,
        0,
        0,
        0,
        0,
        0,
    )


def job_of(row: Sequence[Any]) -> Job:
    """From JOB_COLUMNS. An unfinished job is returned as QUEUED; its standing is in `live`."""
    job = Job(*row)
    job.labels = json.loads(row[8]) if row[8] else {}
    job.state = JobState(job.state) if job.state else JobState.QUEUED
    job.end_reason = EndReason(job.end_reason)
    job.is_partial = bool(job.is_partial)
    return job


def standing_job(row: Sequence[Any]) -> Job:
    """From JOB_COLUMNS and SHOWN_STANDING; the latter are None of an ended job."""
    job = job_of(row[: len(JOB_COLUMNS)])
    phase, *standing = row[len(JOB_COLUMNS) :]
    if phase is not None:
        job.state = JobState.RUNNING if phase == Phase.RUNNING else JobState.QUEUED
        job.attempt, job.start_time, job.last_sequence, job.fencing_token = standing
    return job


def ending_values(job: LiveJob, ending: Ending, end_time: int) -> tuple[Any, ...]:
    """The id, then the columns of ENDING_COLUMNS."""
    return (
        job.id,
        int(ending.state),
        int(ending.reason),
        ending.is_partial,
        ending.result,
        ending.message,
        job.attempt,
        job.start_time,
        end_time,
        job.last_sequence,
        job.fencing_token,
        ending.token,
    )


def event_values(event: Event) -> tuple[Any, ...]:
    type_, name, data = _encoded(event.body)
    pieces = ",".join(map(str, event.pieces)) if event.pieces else ""
    return (
        event.root_id, event.sequence, event.first_sequence, event.time, event.job_id, type_, name, data, pieces,
    )  # fmt: skip


def _encoded(body: Body) -> tuple[int, str, bytes]:
    match body:
        case StateChange():
            content = f"{body.state:d},{body.reason:d},{body.is_partial:d},{body.attempt},{body.message}"
            return _STATE, body.kind, content.encode()
        case Text():
            return _TEXT, body.channel, body.text.encode()
        case Note():
            return _NOTE, body.type, body.data


def event_of(row: Sequence[Any]) -> Event:
    """From the columns of EVENT_COLUMNS."""
    root_id, sequence, first_sequence, time, job_id, type_, name, data, pieces = row
    body: Body
    if type_ == _STATE:
        state, reason, is_partial, attempt, message = bytes(data).decode().split(",", 4)
        end_reason = EndReason(int(reason))
        body = StateChange(name, JobState(int(state)), end_reason, is_partial == "1", int(attempt), message)
    elif type_ == _TEXT:
        body = Text(name, bytes(data).decode())
    else:
        body = Note(name, bytes(data))
    lengths = tuple(map(int, pieces.split(","))) if pieces else ()
    return Event(root_id, sequence, time, job_id, body, first_sequence, lengths)


def stop_values(stop: Stop) -> tuple[Any, ...]:
    return stop.worker_id, stop.time, stop.job_id, stop.fencing_token, int(stop.reason)


def stop_of(row: Sequence[Any]) -> Stop:
    """From the columns of STOP_COLUMNS."""
    worker_id, time, job_id, fencing_token, reason = row
    return Stop(worker_id, job_id, fencing_token, EndReason(reason), time)


def attempt_error_values(job_id: str, error: AttemptError) -> tuple[Any, ...]:
    return job_id, error.time, error.attempt, int(error.reason), error.message


def attempt_errors_of(found: Iterable[Sequence[Any]]) -> dict[str, tuple[AttemptError, ...]]:
    """By job id, from the columns of ATTEMPT_ERROR_COLUMNS, oldest first."""
    out: dict[str, tuple[AttemptError, ...]] = {}
    for job_id, time, attempt, reason, message in found:
        out[job_id] = (*out.get(job_id, ()), AttemptError(attempt, EndReason(reason), message, time))
    return out


audit_values = attrgetter(*AUDIT_COLUMNS)
