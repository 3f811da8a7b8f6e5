"""Putting a request's result together from what its jobs left behind.

The coordinator that ran a request does it at the end. When a request was ended from outside (cancelled, past its deadline, its
coordinator dead too often), whoever is asked for the result does it from the same parts, so that there always is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbp.budget.v1 import budget_pb2
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from coordinator_svc.answers import Answer
from coordinator_svc.requests import RequestSpec
from llm.tokens import compact_json
from svc_common.endings import EndReason, JobState
from svc_common.money import to_amount
from svc_common.texts import shortened
from svc_common.times import from_timestamp, to_duration

Result = coordinator_pb2.RequestResult


# What the queue takes as a result is 2 MiB; jobs may have found more than that together.
_MOST_BYTES = 1_900_000
# What is cut short by one of these ends as it was asked to: with what there is, be it little.
_LIMITS = frozenset({EndReason.TIMEOUT, EndReason.BUDGET_EXCEEDED, EndReason.CANCELLED})


@dataclass(frozen=True)
class ToolJob:
    """A tool job with what it left: its result, read (empty if there is none), and the text it had put out.

    `budget` tells its cost where the result cannot: of a job that left none, or of several attempts.
    """

    job: jobs_pb2.Job
    result: tool_pb2.ToolResult
    text: str = ""
    budget: budget_pb2.Budget | None = None

    @staticmethod
    def of(job: jobs_pb2.Job, text: str = "", budget: budget_pb2.Budget | None = None) -> ToolJob:
        return ToolJob(job, tool_pb2.ToolResult.FromString(job.result), text, budget)

    @property
    def has_ended(self) -> bool:
        return JobState(self.job.state).is_terminal

    @property
    def is_broken(self) -> bool:
        return JobState(self.job.state) in (JobState.FAILED, JobState.ABORTED)

    @property
    def has_findings(self) -> bool:
        return bool(self.result.output.fields or self.result.text or self.text)

    @property
    def why(self) -> str:
        """Why it ended early, for people; empty when it did not."""
        if not self.job.attempt and EndReason(self.job.end_reason) is EndReason.TIMEOUT:
            return "no worker had begun it when its time was over"
        reason = EndReason(self.job.end_reason)
        words = reason.name.lower().replace("_", " ") if reason else ""
        return self.job.error_message or self.result.error_message or words

    @property
    def summary(self) -> coordinator_pb2.JobSummary:
        job, metadata = self.job, self.result.metadata
        short = coordinator_pb2.JobSummary(
            job_id=job.id,
            tool=job.kind,
            state=job.state,
            reason=job.end_reason or self.result.reason,
            is_partial=job.is_partial,
            attempt=job.attempt,
            message=self.why,
            model_ids=metadata.model_ids,
            is_cached=metadata.is_cached,
        )
        if self.budget is not None:
            short.cost.CopyFrom(cost_of(self.budget))
            short.tokens.CopyFrom(self.budget.tokens)
        elif job.result:
            short.cost.CopyFrom(metadata.cost)
            short.tokens.CopyFrom(metadata.tokens)
        if job.HasField("end_time") and job.HasField("start_time"):
            short.duration.CopyFrom(to_duration(from_timestamp(job.end_time) - from_timestamp(job.start_time)))
        return short

    @property
    def finding(self) -> coordinator_pb2.JobResult:
        result, metadata = self.result, self.result.metadata
        has_result = bool(result.output.fields or result.text)
        return coordinator_pb2.JobResult(
            job_id=self.job.id,
            tool=self.job.kind,
            output=result.output,
            text=result.text if has_result else self.text,
            is_partial=self.job.is_partial or result.is_partial or not has_result,
            snapshot_id=metadata.snapshot_id,
            files_processed=metadata.files_processed,
            files_total=metadata.files_total,
        )


def cost_of(budget: budget_pb2.Budget) -> common_pb2.Amount:
    """What was spent, and what is held for calls that were cut: that is charged in full unless they turn out to have used less."""
    return to_amount(budget.spent.pico_usd + budget.held.pico_usd)


def assemble(
    spec: RequestSpec,
    root: jobs_pb2.Job,
    jobs: Sequence[ToolJob],
    budget: budget_pb2.Budget | None,
    answer: Answer,
    *,
    end: int,
) -> Result:
    """The result as of `end` (epoch microseconds). `budget` is None when budget_svc could not say."""
    summaries = {job.job.id: job.summary for job in jobs}
    failed = [summaries[job.job.id] for job in jobs if job.is_broken]
    partial = [summaries[job.job.id] for job in jobs if job.job.is_partial]
    reason, message = _first_cause(answer, root, [*failed, *partial])
    is_complete = bool(answer.text) and not (answer.is_partial or failed or partial) and all(j.has_ended for j in jobs)
    findings = [job.finding for job in jobs if job.has_findings]
    if is_complete:
        outcome = Result.OUTCOME_COMPLETE
    elif answer.text or findings or reason in _LIMITS:
        outcome = Result.OUTCOME_PARTIAL
    else:
        outcome = Result.OUTCOME_FAILED
    result = Result(
        request_id=spec.id,
        outcome=outcome,
        answer=answer.text,
        citations=[coordinator_pb2.Citation(path=path) for path in answer.citations],
        jobs=summaries.values(),
        job_results=findings,
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
    _fill_metadata(result, root, budget, answer, end)
    _fill_budget_use(result, spec, root, reason, end)
    return _fitted(result)


def _first_cause(
    answer: Answer, root: jobs_pb2.Job, broken: Iterable[coordinator_pb2.JobSummary]
) -> tuple[EndReason, str]:
    if root.end_reason:
        words = root.error_message or "the request was ended early"
        earlier = root.attempt_errors[-1].message if root.attempt_errors else ""
        return EndReason(root.end_reason), words if earlier in words else f"{words}; before that: {earlier}"
    if answer.reason:
        return answer.reason, answer.message
    for job in broken:
        if job.reason:
            return EndReason(job.reason), f"{job.tool}: {job.message}"
    return EndReason.NONE, answer.message


def _missing(answer: Answer, jobs: Sequence[ToolJob]) -> list[str]:
    missing = list(answer.missing)
    for job in jobs:
        tool = job.job.kind
        missing.extend(f"{tool}: {item}" for item in job.result.missing)
        if job.is_broken and not job.result.missing:
            left = "only the beginning" if job.text else "no result"
            missing.append(f"{tool}: {left} ({job.why}); ask again with more time or money, or for this tool alone")
        elif not job.has_ended:
            missing.append(f"{tool}: had not ended; ask again with more time")
    if not answer.text:
        has_findings = any(job.has_findings for job in jobs)
        missing.append(f"the answer itself{'; the results of the jobs are what there is' if has_findings else ''}")
    return list(dict.fromkeys(missing))


def _fitted(result: Result) -> Result:
    """The result within what the queue takes: the longest findings are cut, with a mark, the answer stays."""
    excess = result.ByteSize() - _MOST_BYTES
    if excess <= 0:
        return result
    whole = sum(found.ByteSize() for found in result.job_results)
    share = max(0, whole - excess) // len(result.job_results)
    for found in result.job_results:
        if found.ByteSize() <= share:
            continue
        written = found.text or compact_json(MessageToDict(found.output))
        found.ClearField("output")
        found.text = shortened(written, share // 2)
        found.is_partial = True
        result.missing.append(f"{found.tool}: the end of what job {found.job_id} found; ask for this tool alone")
    return result


def _fill_metadata(
    result: Result, root: jobs_pb2.Job, budget: budget_pb2.Budget | None, answer: Answer, end: int
) -> None:
    metadata = result.metadata
    metadata.duration.CopyFrom(to_duration(end - from_timestamp(root.create_time)))
    models = [*answer.model_ids, *(model for job in result.jobs for model in job.model_ids)]
    metadata.model_ids.extend(dict.fromkeys(models))
    metadata.rounds = answer.rounds
    metadata.snapshot_id = answer.snapshot_id
    metadata.template_hash = answer.template_hash
    metadata.trace_id = answer.trace_id
    if budget is not None:
        metadata.cost.CopyFrom(cost_of(budget))
        metadata.tokens.CopyFrom(budget.tokens)


def _fill_budget_use(result: Result, spec: RequestSpec, root: jobs_pb2.Job, reason: EndReason, end: int) -> None:
    began, deadline = from_timestamp(root.create_time), from_timestamp(root.deadline)
    reasons = {reason, *(job.reason for job in result.jobs)}
    use = result.budget_use
    use.cost_exceeded = EndReason.BUDGET_EXCEEDED in reasons
    use.time_exceeded = EndReason.TIMEOUT in reasons
    use.time_utilization_percent = round(100 * (end - began) / max(1, deadline - began), 2)
    use.max_duration.CopyFrom(to_duration(deadline - began))
    use.max_cost.CopyFrom(to_amount(spec.max_cost))
    use.cost_utilization_percent = round(100 * result.metadata.cost.pico_usd / max(1, spec.max_cost), 6)
