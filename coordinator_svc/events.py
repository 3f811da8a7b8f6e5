"""From the queue's event log to the events a client sees, one for one, so that a sequence number means the same in both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2

from coordinator_svc.requests import RequestSpec
from coordinator_svc.results import summary
from svc_common.endings import JobState
from svc_common.money import to_amount

ANSWER = "answer"
PLAN, SPEND, WARNING, RESTART, PROGRESS = "plan", "spend", "warning", "restart", "progress"

Event = coordinator_pb2.RequestEvent


class EventTranslator:
    """Translates the events of one request. `get_job` and `get_result` fetch what an event only points to."""

    def __init__(
        self,
        root: jobs_pb2.Job,
        get_job: Callable[[str], Awaitable[jobs_pb2.Job]],
        get_result: Callable[[], Awaitable[coordinator_pb2.RequestResult]],
    ) -> None:
        self._root = root
        self._spec = RequestSpec.from_json(root.payload)
        self._get_job = get_job
        self._get_result = get_result

    async def translate(self, event: jobs_pb2.Event) -> Event:
        seen = Event(sequence=event.sequence, first_sequence=event.first_sequence, time=event.time)
        match event.WhichOneof("body"):
            case "state_change":
                await self._state_change(event, seen)
            case "text" if event.job_id == self._root.id:
                seen.answer_text.text = event.text.text
            case "text":
                seen.job_text.job_id = event.job_id
                seen.job_text.text = event.text.text
            case _:
                self._note(event, seen)
        return seen

    async def _state_change(self, event: jobs_pb2.Event, seen: Event) -> None:
        change = event.state_change
        if event.sequence == 1:
            seen.accepted.request_id = self._root.id
            seen.accepted.deadline.CopyFrom(self._root.deadline)
            seen.accepted.max_cost.CopyFrom(to_amount(self._spec.max_cost))
            return
        is_end = JobState(change.state).is_terminal
        if is_end and event.job_id == self._root.id:
            seen.result.CopyFrom(await self._get_result())
            return
        job = seen.job_update.job
        if is_end:
            job.CopyFrom(summary(await self._get_job(event.job_id)))
        job.job_id, job.tool, job.state = event.job_id, change.kind, change.state
        job.reason, job.is_partial, job.attempt = change.reason, change.is_partial, change.attempt
        job.message = change.message or job.message

    def _note(self, event: jobs_pb2.Event, seen: Event) -> None:
        data = event.note.data
        match event.note.type:
            case "plan":
                seen.plan.ParseFromString(data)
            case "spend":
                seen.spend.ParseFromString(data)
            case "warning":
                seen.warning.ParseFromString(data)
            case "restart":
                seen.answer_text.restart = True
            case "progress":
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
