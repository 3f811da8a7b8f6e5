"""An instance among the real services: its audit log in jobs_svc, its prompt cache on the bill, its spans in one trace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from budget_svc import server as budget_server
from budget_svc.settings import BudgetSettings
from jobs_svc import server as jobs_server
from jobs_svc.settings import JobsSettings
from llm.audit import verify_chain
from llm.runner import open_runner
from llm.templates import Template
from local_bedrock.backends.script import parse_script
from local_bedrock.invoice import billed_tokens
from local_bedrock.server import RunningEndpoint
from svc_common import telemetry
from svc_common.channel import call, open_channel
from svc_common.money import to_amount
from svc_common.settings import CommonSettings
from svc_common.times import MICROS, now, to_timestamp
from tests.llm.support import PROMPTS, RememberingHost, make_task, session, settings

SCRIPT = """
rules:
  - when: {has_tool_results: false}
    reply: {tools: [{name: read_files, input: {paths: [a.py]}}]}
  - reply: {text: answer}
"""


class Services:
    """Running jobs and budget services with a root job and its budget."""

    def __init__(
        self, jobs: jobs_pb2_grpc.JobsServiceAsyncStub, budgets: budget_pb2_grpc.BudgetServiceAsyncStub
    ) -> None:
        self.jobs = jobs
        self.budgets = budgets

    async def open_request(self, request_id: str) -> None:
        job = jobs_pb2.NewJob(
            id=request_id, tenant="test", kind="coordinate", deadline=to_timestamp(now() + 60 * MICROS)
        )
        await call(self.jobs.CreateJobs, jobs_pb2.CreateJobsRequest(jobs=[job]))
        budget = budget_pb2.NewBudget(id=request_id, tenant="test", limit=to_amount(10**12))
        await call(self.budgets.CreateBudgets, budget_pb2.CreateBudgetsRequest(budgets=[budget]))


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    jobs = await jobs_server.start(JobsSettings(listen="127.0.0.1:0", database_url=f"sqlite:///{tmp_path}/jobs.sqlite"))
    budgets = await budget_server.start(
        BudgetSettings(listen="127.0.0.1:0", database_url=f"sqlite:///{tmp_path}/budget.sqlite")
    )
    channels = [open_channel(f"127.0.0.1:{service.port}", CommonSettings()) for service in (jobs, budgets)]
    running = Services(jobs_pb2_grpc.JobsServiceStub(channels[0]), budget_pb2_grpc.BudgetServiceStub(channels[1]))
    await running.open_request("request-1")
    yield running
    for channel in channels:
        await channel.close(None)
    await jobs.stop()
    await budgets.stop()


async def test_the_audit_log_of_a_run_is_whole_and_its_chain_holds(
    endpoint: RunningEndpoint, services: Services, free_text: Template
) -> None:
    endpoint.load_script(parse_script(SCRIPT))
    runner = open_runner(settings(), PROMPTS, services.budgets, services.jobs, session())

    result = await runner.run(make_task(free_text, budget_id="request-1"), RememberingHost())
    await runner.close()
    log = (await call(services.jobs.ListAuditRecords, jobs_pb2.ListAuditRecordsRequest(root_id="request-1"))).records

    assert result.text == "answer"
    assert len(log) == 4  # asked, two model calls, answered
    assert verify_chain(log) is None
    log[1].record_json = log[1].record_json.replace("end_turn", "tool_use").replace("tool_use", "end_turn")
    assert verify_chain(log) == 2


async def test_a_cached_prefix_is_read_in_the_next_round_and_billed_as_such(
    endpoint: RunningEndpoint, services: Services, free_text: Template
) -> None:
    endpoint.load_script(parse_script(SCRIPT))
    runner = open_runner(settings(), PROMPTS, services.budgets, None, session())
    values = {"query": "what is it?", "material": "a fact of the house. " * 400}

    result = await runner.run(make_task(free_text, budget_id="request-1", values=values), RememberingHost())
    await runner.close()

    assert result.usage.cache_write_tokens > 0
    assert result.usage.cache_read_tokens > 1500
    [((model_id, _), billed)] = billed_tokens(endpoint.invoice.records()).items()
    price = (await call(services.budgets.EstimateCharge, budget_pb2.EstimateChargeRequest(model_id=model_id))).price
    assert result.cost == (
        billed.input_tokens * price.input_pico_usd
        + billed.output_tokens * price.output_pico_usd
        + billed.cache_read_tokens * price.cache_read_pico_usd
        + billed.cache_write_tokens * price.cache_write_pico_usd
    )


async def test_an_instance_its_model_calls_and_its_tools_are_one_trace(
    endpoint: RunningEndpoint, services: Services, free_text: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "tracer", lambda: provider.get_tracer("test"))
    endpoint.load_script(parse_script(SCRIPT))
    runner = open_runner(settings(), PROMPTS, services.budgets, services.jobs, session())

    result = await runner.run(make_task(free_text, budget_id="request-1"), RememberingHost())
    await runner.close()

    spans = {span.name: span for span in exporter.get_finished_spans()}
    instance, chat = spans["invoke_agent fast"], spans["chat amazon.nova-lite-v1:0"]
    assert chat.parent is not None
    assert chat.parent.span_id == instance.context.span_id
    assert instance.attributes is not None
    assert chat.attributes is not None
    assert instance.attributes[telemetry.JOB_ID] == "job-1"
    assert instance.attributes[telemetry.COST_PICO_USD] == result.cost
    assert chat.attributes[telemetry.GEN_AI_PROVIDER] == "aws.bedrock"
    assert chat.attributes[telemetry.GEN_AI_FINISH_REASONS] == ("end_turn",)
    assert chat.attributes[telemetry.GEN_AI_OUTPUT_TOKENS] == 2
