"""Tool calls as jobs, over real services and processes."""

from __future__ import annotations

import asyncio
import signal
from uuid import uuid4

from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from local_bedrock.backends.script import Script
from svc_common.channel import call
from tests.tool_svc_service.house import CODEBASE, ToolHouse, answering, endless, reading


def collected_spans() -> InMemorySpanExporter:
    """Where the spans of this process go from now on."""
    spans = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return spans


async def test_a_job_ends_with_a_checked_result_and_tells_how_it_goes(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(reading("shop/orders.py", "../secret"), answering())))
    await house.start_tools()
    await house.submit("job")
    stages = [
        tool_pb2.ToolProgress.FromString(event.note.data).stage
        async for event in house.events("job")
        if event.HasField("note")
    ]
    job = await house.ended("job")
    result = tool_pb2.ToolResult.FromString(job.result)

    assert (job.state, job.is_partial, job.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, False, 1)
    assert [file["path"] for file in MessageToDict(result.output)["relevant_files"]] == ["shop/orders.py"]
    facts = result.metadata
    assert facts.removed_paths == 1
    assert list(facts.source_paths) == ["shop/orders.py"]
    assert facts.files_total == 4
    assert facts.snapshot_id.startswith("git:")
    assert facts.cost.pico_usd == await house.spent("job") > 0
    assert "reading files" in stages


async def test_aborting_a_job_closes_its_model_stream(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(endless(),)))
    await house.start_tools()
    await house.submit("job")
    await house.model_is_talking("job")
    await call(house.jobs.AbortJobs, jobs_pb2.AbortJobsRequest(job_ids=["job"]))
    await house.bedrock.wait_idle(5)
    assert (await house.ended("job")).state == common_pb2.JOB_STATE_ABORTED


async def test_another_worker_finishes_the_job_of_a_killed_one(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(endless(),)))
    killed = await house.start_worker_process()
    await house.submit("job")
    await house.model_is_talking("job")
    killed.kill()
    await killed.wait()
    house.bedrock.load_script(Script(rules=(answering(),)))
    await house.start_tools()
    job = await house.ended("job")
    assert (job.state, job.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, 2)


async def test_a_worker_that_is_told_to_stop_gives_its_job_back_without_an_attempt(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(endless(),)))
    stopped = await house.start_worker_process()
    await house.submit("job")
    await house.model_is_talking("job")
    stopped.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(stopped.wait(), 20) == 0
    house.bedrock.load_script(Script(rules=(answering(),)))
    await house.start_tools()
    job = await house.ended("job")
    assert (job.state, job.attempt, len(job.attempt_errors)) == (common_pb2.JOB_STATE_SUCCEEDED, 1, 0)


async def test_identical_calls_share_one_execution_and_the_later_ones_cost_nothing(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(answering(first_token_s=0.3),)))
    await house.start_tools()
    await asyncio.gather(house.submit("one"), house.submit("two"))
    jobs = [await house.ended(job_id) for job_id in ("one", "two")]
    facts = [tool_pb2.ToolResult.FromString(job.result).metadata for job in jobs]
    assert len(house.bedrock.invoice.records()) == 1
    assert sorted(fact.is_cached for fact in facts) == [False, True]
    assert sorted([await house.spent("one"), await house.spent("two")])[0] == 0


async def test_a_job_goes_on_with_the_trace_of_who_asked_for_it(house: ToolHouse) -> None:
    spans = collected_spans()
    trace_id = uuid4().int
    await house.start_tools()
    await house.submit("job", traceparent=f"00-{trace_id:032x}-{'1' * 16}-01")
    await house.ended("job")
    names = {span.name for span in spans.get_finished_spans() if span.context and span.context.trace_id == trace_id}
    assert names >= {f"execute_tool {CODEBASE}", "chat amazon.nova-lite-v1:0"}


async def test_a_job_at_its_deadline_ends_with_what_its_model_had_said(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(endless(),)))
    await house.start_tools()
    await house.submit("job", seconds=3)
    job = await house.ended("job")
    result = tool_pb2.ToolResult.FromString(job.result)
    assert (job.state, job.is_partial, job.end_reason) == (
        common_pb2.JOB_STATE_SUCCEEDED,
        True,
        common_pb2.END_REASON_TIMEOUT,
    )
    assert result.text
    assert result.missing
    await house.bedrock.wait_idle(5)


async def test_a_call_that_makes_no_sense_fails_its_job_at_once(house: ToolHouse) -> None:
    await house.start_tools()
    await house.submit("job", query="")
    job = await house.ended("job")
    assert (job.state, job.attempt) == (common_pb2.JOB_STATE_FAILED, 1)
    assert "parameters.query" in job.error_message
