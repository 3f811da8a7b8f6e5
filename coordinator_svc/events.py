"""From the queue's event log to the events a client sees, one for one, so that a sequence number means the same in both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2

from coordinator_svc.requests import RequestSpec
from coordinator_svc.results import ToolJob
from svc_common.endings import JobState
from svc_common.money import to_amount
from svc_common.notes import NoteType

Event = coordinator_pb2.RequestEvent


class EventTranslator:
    """Translates the events of one request. `get_jobs` and `get_result` fetch what an event only points to."""

    def __init__(
        self,
        root: jobs_pb2.Job,
        get_jobs: Callable[[Sequence[str]], Awaitable[Mapping[str, jobs_pb2.Job]]],
        get_result: Callable[[], Awaitable[coordinator_pb2.RequestResult]],
    ) -> None:
        self._root = root
        self._spec = RequestSpec.from_json(root.payload)
        self._get_jobs = get_jobs
        self._get_result = get_result

    async def translate(self, events: Sequence[jobs_pb2.Event]) -> list[Event]:
        """One for each, in order."""
        ended = [event.job_id for event in events if self._is_end_of_job(event)]
        jobs = await self._get_jobs(ended) if ended else {}
        return [await self._translate(event, jobs) for event in events]

    def _is_end_of_job(self, event: jobs_pb2.Event) -> bool:
        is_change = event.HasField("state_change") and event.job_id != self._root.id
        return is_change and JobState(event.state_change.state).is_terminal

    async def _translate(self, event: jobs_pb2.Event, jobs: Mapping[str, jobs_pb2.Job]) -> Event:
        seen = Event(sequence=event.sequence, first_sequence=event.first_sequence, time=event.time)
        match event.WhichOneof("body"):
            case "state_change":
                await self._state_change(event, seen, jobs)
            case "text" if event.job_id == self._root.id:
                seen.answer_text.text = event.text.text
            case "text":
                seen.job_text.job_id = event.job_id
                seen.job_text.text = event.text.text
            case _:
                _note(event, seen)
        return seen

    async def _state_change(self, event: jobs_pb2.Event, seen: Event, jobs: Mapping[str, jobs_pb2.Job]) -> None:
        change = event.state_change
        if event.sequence == 1:
            seen.accepted.request_id = self._root.id
            seen.accepted.deadline.CopyFrom(self._root.deadline)
            seen.accepted.max_cost.CopyFrom(to_amount(self._spec.max_cost))
            return
        if event.job_id == self._root.id and JobState(change.state).is_terminal:
            seen.result.CopyFrom(await self._get_result())
            return
        job = seen.job_update.job
        if self._is_end_of_job(event) and event.job_id in jobs:
            job.CopyFrom(ToolJob.of(jobs[event.job_id]).summary)
        job.job_id, job.tool, job.state = event.job_id, change.kind, change.state
        job.reason, job.is_partial, job.attempt = change.reason, change.is_partial, change.attempt
        job.message = change.message or job.message


def _note(event: jobs_pb2.Event, seen: Event) -> None:
    data = event.note.data
    match event.note.type:
        case NoteType.PLAN:
            seen.plan.ParseFromString(data)
        case NoteType.SPEND:
            seen.spend.ParseFromString(data)
        case NoteType.WARNING:
            seen.warning.ParseFromString(data)
        case NoteType.RESTART:
            seen.answer_text.restart = True
        case NoteType.PROGRESS:
            progress = tool_pb2.ToolProgress.FromString(data)
            seen.job_progress.CopyFrom(
                coordinator_pb2.JobProgress(
                    job_id=event.job_id,
                    stage=progress.stage,
                    files_processed=progress.files_processed,
                    files_total=progress.files_total,
                )
            )
        case unknown:
            seen.warning.job_id = event.job_id
            seen.warning.message = f"an event of unknown type {unknown!r}"
