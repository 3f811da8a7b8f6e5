"""Tool calls as jobs: what a leased job asks for, and what its result means for the queue. Pulling is `svc_common.worker`."""

from __future__ import annotations

from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.message import DecodeError
from opentelemetry.util.types import AttributeValue

from svc_common import telemetry
from svc_common.endings import EndReason
from svc_common.errors import ErrorReason, ServiceError
from svc_common.job_run import JobRun, Outcome
from svc_common.notes import Channel, NoteType
from svc_common.server_interceptor import validate
from svc_common.times import MICROS, from_timestamp
from tool_svc.calls import Execution, Progress, ToolResult
from tool_svc.engine import ToolEngine
from tool_svc.wire import call_from, progress_to, result_to

# How long before a job's deadline its result must be there, for the report to be recorded in time.
REPORT_MARGIN = MICROS // 4


class ToolJobs:
    """The handler of tool jobs."""

    def __init__(self, engine: ToolEngine) -> None:
        self._engine = engine

    async def handle(self, run: JobRun) -> Outcome:
        """Executes the call in a job's payload. Raises ServiceError for a payload that is no valid call."""
        job = run.job
        attributes: dict[str, AttributeValue] = {
            telemetry.GEN_AI_OPERATION: "execute_tool",
            telemetry.GEN_AI_TOOL: job.kind,
            telemetry.JOB_ID: job.id,
            telemetry.JOB_ATTEMPT: job.attempt,
        }
        with telemetry.span(f"execute_tool {job.kind}", traceparent=job.traceparent, attributes=attributes):
            call = call_from(_payload(job))
            execution = Execution(job.id, job.root_id, from_timestamp(job.deadline) - REPORT_MARGIN, job.priority)
            return outcome_of(await self._engine.execute(call, execution, _JobListener(run)))


def outcome_of(result: ToolResult) -> Outcome:
    """What a result means for its job.

    One that holds anything is a success, complete or partial. An empty one is a failure, worth repeating only when this system was
    at fault: money, time and model would be the same the next time.
    """
    reason = common_pb2.EndReason.ValueType(result.reason)
    content = result_to(result).SerializeToString()
    if result.is_usable:
        return jobs_pb2.Success(result=content, is_partial=result.is_partial, reason=reason)
    return jobs_pb2.Failure(
        reason=reason,
        message=result.error_message[:4096],
        retryable=result.reason is EndReason.INTERNAL_ERROR,
        result=content,
    )


def _payload(job: jobs_pb2.Job) -> tool_pb2.ToolCall:
    try:
        call = tool_pb2.ToolCall.FromString(job.payload)
    except DecodeError as error:
        raise ServiceError(ErrorReason.INVALID_ARGUMENT, "the job's payload is not a ToolCall") from error
    validate(call)
    if call.tool != job.kind:
        raise ServiceError(ErrorReason.INVALID_ARGUMENT, f"a job of kind {job.kind} asks for the tool {call.tool}")
    return call


class _JobListener:
    """Puts what happens in a call into the event log of its job's root."""

    def __init__(self, run: JobRun) -> None:
        self._run = run

    def progress(self, progress: Progress) -> None:
        self._run.note(NoteType.PROGRESS, progress_to(progress).SerializeToString())

    def text(self, piece: str) -> None:
        self._run.text(Channel.PARTIAL, piece)
