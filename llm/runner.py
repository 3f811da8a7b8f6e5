"""What a process needs to run LLM instances, built once: models, gateway, meter, notices and audit log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import boto3
from dbp.budget.v1 import budget_pb2_grpc
from dbp.jobs.v1 import jobs_pb2_grpc

from llm import audit, tracing
from llm.audit_trail import AuditSink, AuditTrail, JobsAuditSink
from llm.bedrock import BedrockClient
from llm.catalogue import Catalogue, load_catalogue
from llm.conversation import Conversation
from llm.gateway import Gateway
from llm.instance import Host, InstanceResult, Task
from llm.loop import InstanceLoop, Parts
from llm.metering import BudgetMeter
from llm.notices import load_notices
from llm.settings import LlmSettings
from svc_common import telemetry

_log = logging.getLogger(__name__)
# Twice: whoever stops this process does not wait much longer than that for it.
_CLOSE_SECONDS = 5.0


class LlmRunner:
    """Runs instances, any number at once; they share nothing but limits and connections."""

    def __init__(self, parts: Parts, audit_sink: AuditSink | None) -> None:
        self._parts = parts
        self._audit_sink = audit_sink
        self._trailing: set[asyncio.Task[None]] = set()

    @property
    def catalogue(self) -> Catalogue:
        return self._parts.catalogue

    async def run(self, task: Task, host: Host, conversation: Conversation | None = None) -> InstanceResult:
        """Runs an instance to its end, before its deadline; from where it stood, if a conversation is given.

        Trouble with models, money or time ends in a partial result. Audit records may reach jobs_svc a moment after it. Raises
        CancelledError when cancelled, with the connection to the model closed and its charge settled in the background;
        ServiceError when the task itself is wrong (no such budget).
        """
        with_content = self._parts.settings.audit_content
        trail = AuditTrail(self._audit_sink, task.root_id, task.instance_id)
        if conversation is None:
            trail.add(lambda: audit.task_record(task, with_content=with_content))
        try:
            with tracing.instance_span(task) as span:
                result = await InstanceLoop(self._parts, task, host, conversation, trail).run()
                span.set_attribute(telemetry.GEN_AI_INPUT_TOKENS, result.usage.prompt)
                span.set_attribute(telemetry.GEN_AI_OUTPUT_TOKENS, result.usage.output_tokens)
                span.set_attribute(telemetry.COST_PICO_USD, result.cost)
            trail.add(lambda: audit.result_record(task, result, with_content=with_content))
            return result
        finally:
            self._keep(trail.sending)

    async def close(self) -> None:
        """Ends running model calls; waits until charges are settled and audit records kept, for some seconds if need be."""
        await self._parts.gateway.close(_CLOSE_SECONDS)
        if self._trailing:
            _, late = await asyncio.wait(self._trailing, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()
            if late:
                _log.error("the last audit records of %d instances could not be kept: jobs_svc is away", len(late))

    def _keep(self, sending: asyncio.Task[None] | None) -> None:
        if sending is not None and not sending.done():
            self._trailing.add(sending)
            sending.add_done_callback(self._trailing.discard)


def open_runner(
    settings: LlmSettings,
    prompts: Path,
    budgets: budget_pb2_grpc.BudgetServiceAsyncStub,
    jobs: jobs_pb2_grpc.JobsServiceAsyncStub | None,
    session: boto3.Session | None = None,
) -> LlmRunner:
    """A runner over the services; called on the event loop that runs it. Without `jobs` no audit log is kept.

    Raises SettingsError for an unusable catalogue and TemplateError for unusable notices.
    """
    catalogue = load_catalogue(settings.catalogue, settings.roles)
    texts = load_notices(prompts)
    meter = BudgetMeter(budgets, patience=settings.budget_patience_seconds)
    gateway = Gateway(settings, BedrockClient(settings, session), meter)
    sink = JobsAuditSink(jobs) if jobs is not None else None
    return LlmRunner(Parts(settings, catalogue, texts, gateway), sink)
