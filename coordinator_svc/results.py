"""Putting a request's result together from what its jobs left behind.

The coordinator that ran a request does it at the end. When a request was ended from outside (cancelled, past its deadline, its
coordinator dead too often), whoever is asked for the result does it from the same parts, so that there always is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dbp.budget.v1 import budget_pb2
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.struct_pb2 import Struct

from coordinator_svc.requests import RequestSpec
from svc_common.endings import EndReason, JobState
from svc_common.money import to_amount
from svc_common.times import from_timestamp, to_duration

Result = coordinator_pb2.RequestResult


@dataclass(frozen=True)
class Answer:
    """What the coordinator LLM came to."""

    text: str
    output: dict[str, Any] | None
    is_partial: bool
    reason: EndReason
    message: str
    missing: Sequence[str]
    model_ids: Sequence[str]
    rounds: int
    citations: Sequence[str] = ()


# What is cut short by one of these ends as it was asked to: with what there is, be it little.
_LIMITS = frozenset({EndReason.TIMEOUT, EndReason.BUDGET_EXCEEDED, EndReason.CANCELLED})


def tool_result(job: jobs_pb2.Job) -> tool_pb2.ToolResult:
    """The result of a tool job; an empty one when it left none."""
    return tool_pb2.ToolResult.FromString(job.result) if job.result else tool_pb2.ToolResult(tool=job.kind)


def summary(job: jobs_pb2.Job) -> coordinator_pb2.JobSummary:
    """A tool job in short, with what it used if it left a result."""
    result = tool_result(job)
    short = coordinator_pb2.JobSummary(
        job_id=job.id,
        tool=job.kind,
        state=job.state,
        reason=job.end_reason or result.reason,
        is_partial=job.is_partial,
        attempt=job.attempt,
        message=job.error_message or result.error_message,
    )
    if job.result:
        short.cost.CopyFrom(result.metadata.cost)
        short.tokens.CopyFrom(result.metadata.tokens)
        short.model_ids.extend(result.metadata.model_ids)
        short.is_cached = result.metadata.is_cached
    if job.HasField("end_time") and job.HasField("start_time"):
        short.duration.CopyFrom(to_duration(from_timestamp(job.end_time) - from_timestamp(job.start_time)))
    return short


def assemble(
    spec: RequestSpec,
    root: jobs_pb2.Job,
    jobs: Sequence[jobs_pb2.Job],
    budget: budget_pb2.Budget | None,
    answer: Answer,
    *,
    end: int,
    snapshot_id: str = "",
    template_hash: str = "",
    trace_id: str = "",
) -> Result:
    """The result as of `end` (epoch microseconds). `budget` is None when budget_svc could not say."""
    failed = [summary(job) for job in jobs if JobState(job.state) in (JobState.FAILED, JobState.ABORTED)]
    unfinished = [job for job in jobs if not JobState(job.state).is_terminal]
    partial = [job for job in jobs if job.is_partial]
    reason, message = _first_cause(answer, root, [*failed, *map(summary, partial)])
    is_complete = bool(answer.text) and not (answer.is_partial or failed or unfinished or partial)
    has_something = bool(answer.text) or any(job.result for job in jobs)
    if is_complete:
        outcome = Result.OUTCOME_COMPLETE
    elif has_something or reason in _LIMITS:
        outcome = Result.OUTCOME_PARTIAL
    else:
        outcome = Result.OUTCOME_FAILED
    result = Result(
        request_id=spec.id,
        outcome=outcome,
        answer=answer.text,
        citations=[coordinator_pb2.Citation(path=path) for path in answer.citations],
        jobs=[summary(job) for job in jobs],
        job_results=[_job_result(job) for job in jobs if job.result],
        missing=_missing(answer, jobs),
    )
    if answer.output is not None:
        output = Struct()
        output.update(answer.output)
        result.answer_json.CopyFrom(output)
    if not is_complete:
        result.error.CopyFrom(
            coordinator_pb2.RequestError(
                reason=common_pb2.EndReason.ValueType(reason), message=message, failed_jobs=failed
            )
        )
    _fill_metadata(result, root, jobs, budget, answer, end)
    _fill_budget_use(result, spec, root, budget, reason, end)
    result.metadata.snapshot_id = snapshot_id
    result.metadata.template_hash = template_hash
    result.metadata.trace_id = trace_id
    return result


def _first_cause(
    answer: Answer, root: jobs_pb2.Job, broken: Iterable[coordinator_pb2.JobSummary]
) -> tuple[EndReason, str]:
    if root.end_reason:
        return EndReason(root.end_reason), root.error_message or "the request was ended early"
    if answer.reason:
        return answer.reason, answer.message
    for job in broken:
        if job.reason:
            return EndReason(job.reason), f"{job.tool}: {job.message or EndReason(job.reason).name.lower()}"
    return EndReason.NONE, answer.message


def _missing(answer: Answer, jobs: Sequence[jobs_pb2.Job]) -> list[str]:
    missing = list(answer.missing)
    for job in jobs:
        result = tool_result(job)
        missing.extend(f"{job.kind}: {item}" for item in result.missing)
        if JobState(job.state) in (JobState.FAILED, JobState.ABORTED) and not result.missing:
            why = job.error_message or EndReason(job.end_reason).name.lower().replace("_", " ")
            missing.append(f"{job.kind}: no result ({why}); ask again with more time or money, or for this tool alone")
        elif not JobState(job.state).is_terminal:
            missing.append(f"{job.kind}: had not ended; ask again with more time")
    if not answer.text:
        missing.append("the answer itself; the results of the jobs are what there is")
    return list(dict.fromkeys(missing))


def _job_result(job: jobs_pb2.Job) -> coordinator_pb2.JobResult:
    result = tool_result(job)
    return coordinator_pb2.JobResult(
        job_id=job.id,
        tool=job.kind,
        output=result.output,
        text=result.text,
        is_partial=job.is_partial or result.is_partial,
        snapshot_id=result.metadata.snapshot_id,
        files_processed=result.metadata.files_processed,
        files_total=result.metadata.files_total,
    )


def _fill_metadata(
    result: Result,
    root: jobs_pb2.Job,
    jobs: Sequence[jobs_pb2.Job],
    budget: budget_pb2.Budget | None,
    answer: Answer,
    end: int,
) -> None:
    metadata = result.metadata
    metadata.duration.CopyFrom(to_duration(end - from_timestamp(root.create_time)))
    models = [*answer.model_ids, *(model for job in jobs for model in tool_result(job).metadata.model_ids)]
    metadata.model_ids.extend(dict.fromkeys(models))
    metadata.rounds = answer.rounds
    if budget is not None:
        metadata.cost.CopyFrom(budget.spent)
        metadata.tokens.CopyFrom(budget.tokens)


def _fill_budget_use(
    result: Result,
    spec: RequestSpec,
    root: jobs_pb2.Job,
    budget: budget_pb2.Budget | None,
    reason: EndReason,
    end: int,
) -> None:
    began, deadline = from_timestamp(root.create_time), from_timestamp(root.deadline)
    reasons = {reason, *(job.reason for job in result.jobs)}
    use = result.budget_use
    use.cost_exceeded = EndReason.BUDGET_EXCEEDED in reasons
    use.time_exceeded = EndReason.TIMEOUT in reasons
    use.time_utilization_percent = round(100 * (end - began) / max(1, deadline - began), 2)
    use.max_duration.CopyFrom(to_duration(deadline - began))
    use.max_cost.CopyFrom(to_amount(spec.max_cost))
    if budget is not None:
        use.cost_utilization_percent = round(100 * budget.spent.pico_usd / max(1, spec.max_cost), 6)
