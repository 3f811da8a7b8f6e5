"""Between messages of the contract and domain objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dbp.jobs.v1 import jobs_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_svc.audit import AuditRecord
from jobs_svc.events import Event, Note, StateChange, Text
from jobs_svc.job import MAX_ATTEMPT_ERRORS, Job, NewJob, Stop
from jobs_svc.operations import Created, Failure, Lease, Outcome, Release, Report, Reported, Success
from jobs_svc.reads import JobFilter
from svc_common.endings import EndReason, JobState
from svc_common.times import from_duration, from_timestamp, to_timestamp

RESPONSE_BYTES = 1024 * 1024


def new_job_from(message: jobs_pb2.NewJob) -> NewJob:
    return NewJob(
        id=message.id,
        kind=message.kind,
        deadline=from_timestamp(message.deadline),
        parent_id=message.parent_id,
        tenant=message.tenant,
        payload=message.payload,
        priority=message.priority,
        not_before=from_timestamp(message.not_before_time) if message.HasField("not_before_time") else 0,
        max_attempts=message.max_attempts,
        traceparent=message.traceparent,
        labels=dict(message.labels),
    )


def report_from(message: jobs_pb2.JobReport) -> Report:
    return Report(
        job_id=message.job_id,
        fencing_token=message.fencing_token,
        events=[_body_from(event) for event in message.events],
        checkpoint=message.checkpoint,
        outcome=_outcome_from(message),
        number=message.report_number,
    )


def _body_from(message: jobs_pb2.NewEvent) -> Text | Note:
    if message.HasField("text"):
        return Text(message.text.channel, message.text.text)
    return Note(message.note.type, message.note.data)


def _outcome_from(message: jobs_pb2.JobReport) -> Outcome | None:
    match message.WhichOneof("outcome"):
        case "success":
            success = message.success
            return Success(success.result, success.is_partial, EndReason(success.reason))
        case "failure":
            failure = message.failure
            return Failure(EndReason(failure.reason), storable(failure.message), failure.retryable, failure.result)
        case "release":
            return Release(from_duration(message.release.delay))
    return None


def storable(message: str) -> str:
    """A message for people, without what PostgreSQL takes in no text: to refuse it would lose the outcome that it comes with."""
    return message.replace("\x00", "")


def filter_from(message: jobs_pb2.ListJobsRequest) -> JobFilter:
    return JobFilter(
        root_id=message.root_id,
        tenant=message.tenant,
        kinds=tuple(message.kinds),
        states=tuple(JobState(state) for state in message.states),
        created_after=from_timestamp(message.created_after),
        created_before=from_timestamp(message.created_before),
        roots_only=message.roots_only,
        job_ids=tuple(message.job_ids),
        omit_content=message.omit_content,
        omit_outcome=message.omit_outcome,
    )


def job_to(job: Job, *, with_input: bool = True) -> jobs_pb2.Job:
    """Without its input, payload and checkpoint, for those who have it already."""
    message = jobs_pb2.Job(
        id=job.id,
        root_id=job.root_id,
        parent_id=job.parent_id,
        tenant=job.tenant,
        kind=job.kind,
        payload=job.payload if with_input else b"",
        priority=job.priority,
        state=int(job.state),  # type: ignore[arg-type]  # numbers are the proto's; a test holds them alike
        end_reason=int(job.end_reason),  # type: ignore[arg-type]
        is_partial=job.is_partial,
        result=job.result,
        error_message=job.error_message,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        checkpoint=job.checkpoint if with_input else b"",
        traceparent=job.traceparent,
        labels=job.labels,
        last_sequence=0 if job.parent_id else job.last_sequence,
    )
    _set_time(message.create_time, job.create_time)
    _set_time(message.deadline, job.deadline)
    if job.not_before:
        _set_time(message.not_before_time, job.not_before)
    if job.start_time:
        _set_time(message.start_time, job.start_time)
    if job.end_time:
        _set_time(message.end_time, job.end_time)
    for error in job.attempt_errors[-MAX_ATTEMPT_ERRORS:]:
        message.attempt_errors.add(
            attempt=error.attempt,
            reason=int(error.reason),
            message=error.message,
            time=to_timestamp(error.time),
        )
    return message


def lease_to(lease: Lease) -> jobs_pb2.Lease:
    return jobs_pb2.Lease(
        job=job_to(lease.job), fencing_token=lease.fencing_token, expire_time=to_timestamp(lease.expire_time)
    )


def created_to(created: Created) -> jobs_pb2.CreatedJob:
    lease = lease_to(created.lease) if created.lease else None
    job = job_to(created.job, with_input=lease is None)
    return jobs_pb2.CreatedJob(job=job, created=created.created, lease=lease)


def reported_to(reported: Reported) -> jobs_pb2.ReportResult:
    return jobs_pb2.ReportResult(
        disposition=int(reported.disposition),  # type: ignore[arg-type]
        expire_time=to_timestamp(reported.expire_time),
    )


def stop_to(stop: Stop) -> jobs_pb2.WatchStopsResponse:
    return jobs_pb2.WatchStopsResponse(
        job_id=stop.job_id,
        fencing_token=stop.fencing_token,
        reason=int(stop.reason),  # type: ignore[arg-type]
    )


def event_to(event: Event) -> jobs_pb2.Event:
    message = jobs_pb2.Event(sequence=event.sequence, first_sequence=event.first_sequence, job_id=event.job_id)
    _set_time(message.time, event.time)
    match event.body:
        case StateChange() as change:
            message.state_change.kind = change.kind
            message.state_change.state = int(change.state)  # type: ignore[assignment]
            message.state_change.reason = int(change.reason)  # type: ignore[assignment]
            message.state_change.is_partial = change.is_partial
            message.state_change.attempt = change.attempt
            message.state_change.message = change.message
        case Text() as text:
            message.text.channel = text.channel
            message.text.text = text.text
        case Note() as note:
            message.note.type = note.type
            message.note.data = note.data
    return message


def events_to(events: Iterable[Event]) -> Iterator[jobs_pb2.WatchEventsResponse]:
    """As few messages as keep each at a good size for the transport."""
    response, size = jobs_pb2.WatchEventsResponse(), 0
    for event in map(event_to, events):
        if response.events and size + event.ByteSize() > RESPONSE_BYTES:
            yield response
            response, size = jobs_pb2.WatchEventsResponse(), 0
        response.events.append(event)
        size += event.ByteSize()
    yield response


def audit_record_to(record: AuditRecord) -> jobs_pb2.AuditRecord:
    return jobs_pb2.AuditRecord(
        sequence=record.sequence,
        time=to_timestamp(record.time),
        job_id=record.job_id,
        record_json=record.record_json,
        previous_hash=record.previous_hash,
        hash=record.hash,
    )


def _set_time(field: Timestamp, micros: int) -> None:
    field.seconds, rest = divmod(micros, 1_000_000)
    field.nanos = rest * 1000
