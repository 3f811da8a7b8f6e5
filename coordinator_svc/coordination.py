"""One request from its lease to its result: the coordinator LLM plans, jobs run, it reads their results and answers.

Everything it must remember is in the job: the event log, the checkpoint, and child jobs whose ids follow from the conversation. So
another process can go on where this one stopped, and finds the jobs it had started.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from coordinator_svc import events
from coordinator_svc.budgets import BudgetsClient
from coordinator_svc.checkpoint import Checkpoint
from coordinator_svc.citations import named_paths
from coordinator_svc.costs import ToolCosts
from coordinator_svc.fanout import Fanout
from coordinator_svc.jobs_client import JobsClient
from coordinator_svc.prompt import prompt_values
from coordinator_svc.requests import KIND, RequestSpec, ResponseFormat, jobs_deadline
from coordinator_svc.results import Answer, assemble, tool_result
from coordinator_svc.settings import CoordinatorSettings
from coordinator_svc.tools import READ_FILES, Catalogue, ToolsClient, to_scope
from llm.conversation import Conversation
from llm.instance import InstanceResult, Task, ToolOutcome, ToolUse
from llm.runner import LlmRunner
from llm.templates import Template
from svc_common import deadline, telemetry
from svc_common.endings import EndReason, JobState
from svc_common.errors import ServiceError
from svc_common.ids import derived_id
from svc_common.money import format_usd
from svc_common.times import MICROS, from_timestamp, now
from svc_common.worker import JobRun, Outcome

logger = logging.getLogger(__name__)

ROLE = "coordinator"
_LISTED_PATHS = 200
# What one job's result may take of the coordinator's context; the runner trims further where its model needs it.
_RESULT_CHARACTERS = 24_000


@dataclass(frozen=True)
class Parts:
    """What conducting a request takes; built once per process."""

    settings: CoordinatorSettings
    template: Template
    runner: LlmRunner
    jobs_client: JobsClient
    tools: ToolsClient
    budgets: BudgetsClient
    costs: ToolCosts


async def handle(parts: Parts, run: JobRun) -> Outcome:
    """The worker's handler: conducts the request of a leased root job."""
    spec = RequestSpec.from_json(run.job.payload)
    attributes: dict[str, AttributeValue] = {telemetry.REQUEST_ID: spec.id, telemetry.JOB_ATTEMPT: run.job.attempt}
    with telemetry.span(KIND, kind=SpanKind.CONSUMER, traceparent=run.job.traceparent, attributes=attributes):
        return await Conduct(parts, run, spec).run()


async def result_of(parts: Parts, root: jobs_pb2.Job) -> coordinator_pb2.RequestResult:
    """The result of a request that has ended: the one its coordinator left, else one made of what is there."""
    if root.result:
        return coordinator_pb2.RequestResult.FromString(root.result)
    spec = RequestSpec.from_json(root.payload)
    jobs, budget, text = await asyncio.gather(
        parts.jobs_client.tree(root.id), parts.budgets.get(root.id), _streamed_answer(parts.jobs_client, root.id)
    )
    answer = Answer(
        text=text,
        output=None,
        is_partial=True,
        reason=EndReason(root.end_reason),
        message=root.error_message,
        missing=(),
        model_ids=(),
        rounds=0,
    )
    return assemble(spec, root, jobs, budget, answer, end=from_timestamp(root.end_time))


async def _streamed_answer(jobs_client: JobsClient, root_id: str) -> str:
    """What the caller of an ended request had seen of its answer."""
    answer = ""
    async for event in jobs_client.follow(root_id, 0):
        if event.job_id == root_id and event.HasField("text"):
            answer += event.text.text
        elif event.note.type == events.RESTART:
            answer = ""
    return answer


class Conduct:
    """The host of one request's coordinator LLM (see `llm.instance.Host`)."""

    def __init__(self, parts: Parts, run: JobRun, spec: RequestSpec) -> None:
        self._parts = parts
        self._run = run
        self._spec = spec
        self._deadline = from_timestamp(run.job.deadline)
        self._checkpoint = Checkpoint.from_bytes(run.job.checkpoint)
        self._fanout = Fanout(spec, parts.jobs_client, parts.budgets)
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> Outcome:
        if self._run.fencing_token > 1:
            # An answer that the last coordinator had begun is void: this one writes it again.
            self._run.note(events.RESTART, b"")
        await self._parts.budgets.open_request(self._spec, self._deadline, self._parts.settings.conclusion_share)
        catalogue, workspace = await asyncio.gather(
            self._parts.tools.catalogue(),
            self._parts.tools.describe(self._spec.workspace, self._spec.scope, _LISTED_PATHS),
        )
        self._catalogue: Catalogue = catalogue
        self._checkpoint.snapshot_id = self._checkpoint.snapshot_id or workspace.snapshot_id
        self._watching = asyncio.create_task(self._fanout.watch(self._run.job.last_sequence))
        try:
            result = await self._parts.runner.run(
                await self._task(workspace), self, conversation=self._checkpoint.conversation
            )
        finally:
            self._watching.cancel()
        return await self._conclude(result)

    async def _task(self, workspace: tool_pb2.DescribeWorkspaceResponse) -> Task:
        spec = self._spec
        schema = spec.response_schema
        if schema is None and spec.response_format is ResponseFormat.JSON:
            schema = {"type": "object"}
        return Task(
            instance_id=self._run.job.id,
            request_id=spec.id,
            root_id=spec.id,
            budget_id=spec.id,
            role=ROLE,
            template=self._parts.template,
            values=prompt_values(
                spec,
                workspace,
                tools_cost=await self._parts.costs.describe(self._catalogue.tools.values()),
                now=datetime.now(UTC),
                deadline=self._deadline,
                previous=await self._previous(),
            ),
            tools=self._catalogue.specs,
            deadline=self._deadline - int(self._parts.settings.result_seconds * MICROS),
            max_rounds=spec.max_rounds,
            max_output_tokens=self._parts.settings.answer_max_tokens,
            response_schema=schema,
            priority=spec.priority,
        )

    async def _previous(self) -> str:
        """Question, answer and findings of the request that this one continues, as text."""
        if not self._spec.previous_request_id:
            return ""
        root = await self._parts.jobs_client.get(self._spec.previous_request_id)
        result = await result_of(self._parts, root)
        findings = {job.tool: MessageToDict(job.output) for job in result.job_results}
        return json.dumps(
            {"question": RequestSpec.from_json(root.payload).query, "answer": result.answer, "findings": findings},
            ensure_ascii=False,
        )[:_RESULT_CHARACTERS]

    # -- what the LLM instance asks of its host --

    async def on_text(self, text: str) -> None:
        self._run.text(events.ANSWER, text)

    async def on_restart(self) -> None:
        self._run.note(events.RESTART, b"")

    async def on_turn(self, conversation: Conversation) -> None:
        self._checkpoint.conversation = conversation
        if not conversation.unanswered:  # a round of tools is over, and has logged what was spent
            await self._run.save(self._checkpoint.to_bytes())
        elif any("toolUse" in block for block in conversation.unanswered):
            # run_tools follows and saves, so that the plan is logged together with the turn that made it.
            await self._log_spend()
        else:
            await asyncio.gather(self._run.save(self._checkpoint.to_bytes()), self._log_spend())

    async def on_warning(self, message: str) -> None:
        warning = coordinator_pb2.Warning(message=message)
        self._run.note(events.WARNING, warning.SerializeToString())

    async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
        jobs = {use.id: derived_id(self._spec.id, str(round), use.id) for use in uses if use.name != READ_FILES}
        self._log_plan(round, thought, uses, jobs)
        await self._run.save(self._checkpoint.to_bytes())
        room = max(0, self._spec.max_jobs - self._checkpoint.finished_jobs)
        admitted = dict(list(jobs.items())[:room])
        calls = [(admitted[use.id], self._tool_call(use, admitted[use.id])) for use in uses if use.id in admitted]
        files, ended = await asyncio.gather(self._read(uses), self._run_jobs(calls))
        # Not before they have ended: a coordinator that resumes the round must find the same room for it.
        self._checkpoint.finished_jobs += len(admitted)
        left = await self._log_spend()
        return [
            files[use.id]
            if use.id in files
            else self._outcome(ended, admitted[use.id], left)
            if use.id in admitted
            else ToolOutcome(f"not run: a request may have {self._spec.max_jobs} jobs at most", is_error=True)
            for use in uses
        ]

    # -- the parts of a round --

    def _log_plan(self, round: int, thought: str, uses: Sequence[ToolUse], jobs: dict[str, str]) -> None:
        if round <= self._checkpoint.planned_rounds:
            return  # logged before this coordinator took over
        plan = coordinator_pb2.Plan(round=round, thought=thought)
        for use in uses:
            planned = plan.calls.add(job_id=jobs.get(use.id, ""), tool=use.name)
            planned.parameters.update(dict(use.input))
        self._run.note(events.PLAN, plan.SerializeToString())
        self._checkpoint.planned_rounds = round

    def _tool_call(self, use: ToolUse, job_id: str) -> tool_pb2.ToolCall:
        parameters = Struct()
        parameters.update(dict(use.input))
        return tool_pb2.ToolCall(
            tool=use.name,
            workspace=self._spec.workspace,
            scope=to_scope(self._spec.scope),
            parameters=parameters,
            request_id=self._spec.id,
            budget_id=job_id,
            snapshot_id=self._checkpoint.snapshot_id,
            caller=self._run.job.id,
        )

    async def _run_jobs(self, calls: Sequence[tuple[str, tool_pb2.ToolCall]]) -> dict[str, jobs_pb2.Job] | ServiceError:
        if not calls or self._watching is None:
            return {}
        settings = self._parts.settings
        due = jobs_deadline(now(), self._deadline, settings.answer_share, int(settings.answer_seconds_max * MICROS))
        try:
            return await self._fanout.run(calls, due, self._watching)
        except* ServiceError as group:
            error = _first_service_error(group)
        logger.warning("request %s: its jobs could not be run: %r", self._spec.id, error)
        await self.on_warning(f"the tools could not be run: {error.message}")
        return error

    def _outcome(self, ended: dict[str, jobs_pb2.Job] | ServiceError, job_id: str, left: str) -> ToolOutcome:
        if isinstance(ended, ServiceError):
            return ToolOutcome(f"the tool could not be run: {ended.message}", is_error=True)
        job = ended[job_id]
        result = tool_result(job)
        reason = EndReason(job.end_reason)
        if job.result and (result.output.fields or result.text):
            content = {
                "is_partial": job.is_partial or result.is_partial,
                "result": MessageToDict(result.output) if result.output.fields else result.text,
                "missing": list(result.missing),
                "files_seen": f"{result.metadata.files_processed} of {result.metadata.files_total}",
                "source_paths": list(result.metadata.source_paths),
                "left_of_limits": left,
            }
            return ToolOutcome(content)
        text = self._fanout.partial_text(job_id)
        if text:
            content = {"is_partial": True, "result": text, "missing": [f"cut short: {reason.name.lower()}"]}
            return ToolOutcome(content)
        why = job.error_message or reason.name.lower().replace("_", " ")
        return ToolOutcome(f"no result: {why}", is_error=True)

    async def _read(self, uses: Sequence[ToolUse]) -> dict[str, ToolOutcome]:
        return {use.id: await self._read_one(use) for use in uses if use.name == READ_FILES}

    async def _read_one(self, use: ToolUse) -> ToolOutcome:
        try:
            response = await self._parts.tools.read_files(
                self._spec.workspace, self._spec.scope, [str(path) for path in use.input.get("paths", [])]
            )
        except ServiceError as error:
            return ToolOutcome(f"the files could not be read: {error.message}", is_error=True)
        return ToolOutcome(
            {"files": [MessageToDict(file) for file in response.files], "missing": list(response.missing)}
        )

    async def _log_spend(self) -> str:
        """Logs what was spent; returns what is left of money and time, in words for the LLM."""
        seconds = f"{max(0, (self._deadline - now()) // MICROS)} s"
        budget = await self._parts.budgets.get(self._spec.id)
        if budget is None:
            return seconds
        spend = coordinator_pb2.Spend(spent=budget.spent, held=budget.held, limit=budget.limit)
        self._run.note(events.SPEND, spend.SerializeToString())
        return f"{format_usd(budget.available.pico_usd)} USD, {seconds}"

    # -- the end --

    async def _conclude(self, result: InstanceResult) -> Outcome:
        output = dict(result.output) if result.output is not None else None
        text = result.text or (json.dumps(output, ensure_ascii=False) if output is not None else "")
        # Half of what is left, at most, for what makes the result better: the result itself must be reported in time.
        with deadline.scope((now() + self._deadline) // 2):
            citations, jobs, budget = await asyncio.gather(
                self._citations(text),
                self._parts.jobs_client.tree(self._spec.id),
                self._parts.budgets.get(self._spec.id),
            )
        answer = Answer(
            text=text,
            output=output,
            is_partial=result.is_partial,
            reason=result.reason,
            message=result.message,
            missing=result.missing,
            model_ids=result.model_ids,
            rounds=result.rounds,
            citations=citations,
        )
        unfinished = [job.id for job in jobs if not JobState(job.state).is_terminal]
        if unfinished:
            await self._parts.jobs_client.abort(unfinished, EndReason.TIMEOUT, "the request has its answer")
        final = assemble(
            self._spec,
            self._run.job,
            jobs,
            budget,
            answer,
            end=now(),
            snapshot_id=self._checkpoint.snapshot_id,
            template_hash=self._parts.template.content_hash,
            trace_id=telemetry.current_trace_id(),
        )
        data = final.SerializeToString()
        if final.outcome == coordinator_pb2.RequestResult.OUTCOME_FAILED:
            # The instance has retried what can be retried; another attempt would only pay for the same again.
            return jobs_pb2.Failure(reason=final.error.reason, message=final.error.message[:4096], result=data)
        is_partial = final.outcome == coordinator_pb2.RequestResult.OUTCOME_PARTIAL
        return jobs_pb2.Success(result=data, is_partial=is_partial, reason=final.error.reason)

    async def _citations(self, text: str) -> list[str]:
        """The files that the answer names and that exist, in its order."""
        paths = named_paths(text)
        if not paths:
            return []
        try:
            response = await self._parts.tools.read_files(
                self._spec.workspace, self._spec.scope, paths, max_bytes_per_file=1
            )
        except ServiceError as error:
            await self.on_warning(f"the files that the answer names could not be checked: {error.message}")
            return []
        return [file.path for file in response.files if file.exists]


def _first_service_error(group: BaseExceptionGroup[ServiceError]) -> ServiceError:
    for error in group.exceptions:
        return _first_service_error(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
