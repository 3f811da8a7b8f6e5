"""One request from its lease to its result: the coordinator LLM plans, jobs run, it reads their results and answers.

Everything it must remember is in the job: the event log, the checkpoint, and child jobs whose ids follow from the conversation. So
another process can go on where this one stopped, and finds the jobs it had started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from dbp.budget.v1 import budget_pb2
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.struct_pb2 import Struct
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from coordinator_svc.answers import Answer, answer_of, never_begun
from coordinator_svc.budgets import BudgetsClient
from coordinator_svc.checkpoint import Checkpoint
from coordinator_svc.citations import named_paths
from coordinator_svc.costs import ToolCosts
from coordinator_svc.ending import result_of, tool_jobs
from coordinator_svc.fanout import GRACE_MICROS, Call, Fanout
from coordinator_svc.findings import (
    error_outcome,
    failed_outcome,
    files_outcome,
    job_outcome,
    previous_request,
    with_limits,
)
from coordinator_svc.jobs_client import JobsClient
from coordinator_svc.prompt import left_of_limits, prompt_values
from coordinator_svc.requests import KIND, RequestSpec, ResponseFormat, jobs_deadline
from coordinator_svc.results import ToolJob, assemble
from coordinator_svc.settings import CoordinatorSettings
from coordinator_svc.tools import READ_FILES, Catalogue, ToolsClient, to_scope
from llm.conversation import Conversation
from llm.instance import InstanceResult, Task, ToolOutcome, ToolUse
from llm.runner import LlmRunner
from llm.structured import RESULT_TOOL
from llm.templates import Template
from llm.tool_calls import tool_uses
from svc_common import deadline, telemetry
from svc_common.channel import AWAY
from svc_common.errors import ErrorReason, ServiceError
from svc_common.ids import derived_id
from svc_common.job_run import JobRun, Outcome
from svc_common.notes import Channel, NoteType
from svc_common.times import MICROS, from_timestamp, now

T = TypeVar("T")

ROLE = "coordinator"
_LISTED_PATHS = 200
# What one call of read_files may take of the coordinator's context; its files share it evenly.
_READ_BYTES = 96 * 1024
# The queue takes 4 MiB.
_CHECKPOINT_BYTES = 4_000_000
# Pieces of text that the queue takes are at most 64 KiB.
_PIECE_CHARACTERS = 4096
_NO_ANSWER = AWAY | {ErrorReason.DEADLINE_EXCEEDED}
# How long before the LLM stops waiting for a round its outcomes must be there.
_RETURN_MICROS = 100_000


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


class Conduct:
    """The host of one request's coordinator LLM (see `llm.instance.Host`)."""

    def __init__(self, parts: Parts, run: JobRun, spec: RequestSpec) -> None:
        self._parts = parts
        self._run = run
        self._spec = spec
        self._deadline = from_timestamp(run.job.deadline)
        self._checkpoint = Checkpoint.from_bytes(run.job.checkpoint)
        self._checkpoint.template_hash = parts.template.content_hash
        self._fanout = Fanout(spec, parts.jobs_client, parts.budgets)
        self._said = ""
        """The answer as far as it was streamed."""
        self._not_run: dict[str, ServiceError] = {}
        """Tools of which a call left no job, and why."""

    async def run(self) -> Outcome:
        if self._run.fencing_token > 1:
            # An answer that the last coordinator had begun is void: this one writes it again.
            self._run.note(NoteType.RESTART, b"")
        async with self._fanout:
            try:
                task = await self._prepare()
            except ServiceError as error:
                if error.reason not in _NO_ANSWER or now() < self._latest - MICROS:
                    raise  # for another attempt, if that is of use
                return await self._finish(never_begun(error))
            result = await self._parts.runner.run(task, self, conversation=self._checkpoint.conversation)
            return await self._conclude(result)

    @property
    def _latest(self) -> int:
        """Until when the instance must have returned."""
        return self._deadline - int(self._parts.settings.result_seconds * MICROS)

    async def _prepare(self) -> Task:
        parts, spec = self._parts, self._spec
        with deadline.scope(self._latest):
            _, catalogue, workspace, previous = await asyncio.gather(
                _asked("budget_svc", parts.budgets.open_request(spec, self._deadline, parts.settings.conclusion_share)),
                _asked("tool_svc", parts.tools.catalogue()),
                _asked("tool_svc", parts.tools.describe(spec.workspace, spec.scope, _LISTED_PATHS)),
                self._previous(),
            )
            tools_cost = await parts.costs.describe(catalogue.tools.values())
        self._checkpoint.snapshot_id = self._checkpoint.snapshot_id or workspace.snapshot_id
        values = prompt_values(
            spec,
            workspace,
            tools_cost=tools_cost,
            now=datetime.now(UTC),
            deadline=self._deadline,
            previous=previous,
        )
        return self._task(values, catalogue)

    def _task(self, values: Mapping[str, str], catalogue: Catalogue) -> Task:
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
            values=values,
            tools=catalogue.specs,
            deadline=self._latest,
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
        result = await result_of(self._parts.jobs_client, self._parts.budgets, root)
        return previous_request(RequestSpec.from_json(root.payload).query, result)

    # -- what the LLM instance asks of its host --

    async def on_text(self, text: str) -> None:
        self._said += text
        self._run.text(Channel.ANSWER, text)

    async def on_restart(self) -> None:
        self._said = ""
        self._run.note(NoteType.RESTART, b"")

    async def on_turn(self, conversation: Conversation) -> None:
        self._checkpoint.conversation = conversation
        if not any(use.name != RESULT_TOOL for use in tool_uses(conversation.unanswered)):
            await self._save()
        # Else run_tools follows and saves, so that the plan is logged together with the turn that made it.

    async def on_warning(self, message: str) -> None:
        warning = coordinator_pb2.Warning(message=message)
        self._run.note(NoteType.WARNING, warning.SerializeToString())

    async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
        with deadline.scope((deadline.current() or self._latest) - _RETURN_MICROS):
            return await self._run_round(round, thought, uses)

    # -- the parts of a round --

    async def _run_round(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
        jobs = {use.id: derived_id(self._spec.id, str(round), use.id) for use in uses if use.name != READ_FILES}
        self._log_plan(round, thought, uses, jobs)
        await self._save()
        room = max(0, self._spec.max_jobs - self._checkpoint.finished_jobs)
        admitted = dict(list(jobs.items())[:room])
        calls = [(admitted[use.id], self._tool_call(use, admitted[use.id])) for use in uses if use.id in admitted]
        files, ended = await asyncio.gather(self._read(uses), self._run_jobs(calls))
        # Not before they have ended: a coordinator that resumes the round must find the same room for it.
        self._checkpoint.finished_jobs += len(admitted)
        budget = await self._log_spend()
        left = left_of_limits(budget.available.pico_usd if budget else None, self._deadline, now())
        refused = failed_outcome(f"not run: a request may have {self._spec.max_jobs} jobs at most")
        outcomes = files | {use_id: ended[job_id] for use_id, job_id in admitted.items()}
        return [with_limits(outcomes.get(use.id, refused), left) for use in uses]

    async def _save(self) -> None:
        checkpoint = self._checkpoint.to_bytes()
        if len(checkpoint) <= _CHECKPOINT_BYTES:
            await self._run.save(checkpoint)
        else:
            await self.on_warning(
                "the conversation is too long to be kept: a coordinator that takes over repeats its end"
            )

    def _log_plan(self, round: int, thought: str, uses: Sequence[ToolUse], jobs: dict[str, str]) -> None:
        if round <= self._checkpoint.planned_rounds:
            return  # logged before this coordinator took over
        plan = coordinator_pb2.Plan(round=round, thought=thought)
        for use in uses:
            planned = plan.calls.add(job_id=jobs.get(use.id, ""), tool=use.name)
            planned.parameters.update(dict(use.input))
        self._run.note(NoteType.PLAN, plan.SerializeToString())
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

    async def _run_jobs(self, calls: Sequence[Call]) -> dict[str, ToolOutcome]:
        """What became of tool calls, by the id of the job."""
        if not calls:
            return {}
        settings = self._parts.settings
        due = jobs_deadline(
            now(),
            self._deadline,
            settings.answer_share,
            int(settings.answer_seconds_max * MICROS),
            (deadline.current() or self._latest) - 2 * GRACE_MICROS,
        )
        tools = {job_id: call.tool for job_id, call in calls}
        outcomes: dict[str, ToolOutcome] = {}
        for job_id, end in (await self._fanout.run(calls, due)).items():
            text = self._fanout.digest.text(job_id)
            if isinstance(end, ServiceError):
                self._not_run[tools[job_id]] = end
                await self.on_warning(f"{tools[job_id]} could not be run: {end.message}")
                outcomes[job_id] = error_outcome(end, text)
            else:
                outcomes[job_id] = job_outcome(ToolJob.of(end, text))
        return outcomes

    async def _read(self, uses: Sequence[ToolUse]) -> dict[str, ToolOutcome]:
        reading = [use for use in uses if use.name == READ_FILES]
        outcomes = await asyncio.gather(*map(self._read_one, reading))
        return {use.id: outcome for use, outcome in zip(reading, outcomes, strict=True)}

    async def _read_one(self, use: ToolUse) -> ToolOutcome:
        paths = [str(path) for path in use.input["paths"]]
        try:
            response = await self._parts.tools.read_files(
                self._spec.workspace,
                self._spec.scope,
                paths,
                snapshot_id=self._checkpoint.snapshot_id,
                max_bytes_per_file=_READ_BYTES // len(paths),
            )
        except ServiceError as error:
            return failed_outcome(f"the files could not be read: {error.message}")
        return files_outcome(response)

    async def _log_spend(self) -> budget_pb2.Budget | None:
        budget = await self._parts.budgets.get(self._spec.id)
        if budget is not None:
            spend = coordinator_pb2.Spend(spent=budget.spent, held=budget.held, limit=budget.limit)
            self._run.note(NoteType.SPEND, spend.SerializeToString())
        return budget

    # -- the end --

    async def _conclude(self, result: InstanceResult) -> Outcome:
        answer = answer_of(result, self._said, self._not_run)
        self._say_in_the_end(answer.text)
        return await self._finish(answer)

    def _say_in_the_end(self, text: str) -> None:
        """Has the text that was streamed be the answer to the letter: whatever of it was said otherwise, or by a coordinator before
        this one, is said again."""
        if self._said == text:
            return
        if self._said:
            self._run.note(NoteType.RESTART, b"")
        for start in range(0, len(text), _PIECE_CHARACTERS):
            self._run.text(Channel.ANSWER, text[start : start + _PIECE_CHARACTERS])

    async def _finish(self, answer: Answer) -> Outcome:
        parts = self._parts
        # Half of what is left, at most, for what makes the result better: the result itself must be reported in time.
        with deadline.scope((now() + self._deadline) // 2):
            citations, jobs, budget = await asyncio.gather(
                self._citations(answer.text), self._fanout.settle(), parts.budgets.get(self._spec.id)
            )
            found = await tool_jobs(parts.budgets, jobs, self._fanout.digest)
        answer = replace(
            answer,
            citations=citations,
            snapshot_id=self._checkpoint.snapshot_id,
            template_hash=self._checkpoint.template_hash,
            trace_id=telemetry.current_trace_id(),
        )
        final = assemble(self._spec, self._run.job, found, budget, answer, end=now())
        data = final.SerializeToString()
        if final.outcome == coordinator_pb2.RequestResult.OUTCOME_FAILED:
            # The instance has retried what can be retried; another attempt would only pay for the same again.
            return jobs_pb2.Failure(reason=final.error.reason, message=final.error.message[:4096], result=data)
        is_partial = final.outcome == coordinator_pb2.RequestResult.OUTCOME_PARTIAL
        return jobs_pb2.Success(result=data, is_partial=is_partial, reason=final.error.reason)

    async def _citations(self, text: str) -> list[str]:
        """The files that the answer names and that exist in the request's snapshot, in its order."""
        paths = named_paths(text)
        if not paths:
            return []
        try:
            response = await self._parts.tools.read_files(
                self._spec.workspace,
                self._spec.scope,
                paths,
                snapshot_id=self._checkpoint.snapshot_id,
                max_bytes_per_file=1,
            )
        except ServiceError as error:
            await self.on_warning(f"the files that the answer names could not be checked: {error.message}")
            return []
        return [file.path for file in response.files if file.exists]


async def _asked(service: str, answer: Awaitable[T]) -> T:
    """The answer of a service; the error that there was none names it."""
    try:
        return await answer
    except ServiceError as error:
        if error.reason not in _NO_ANSWER:
            raise
        raise ServiceError(error.reason, f"{service} did not answer: {error.message}") from error
