"""Rounds of tool calls and their limits, the forms of an answer, and what a caller can ask about its requests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2

from dbp_client import Conflict, LimitReached
from svc_common.endings import JobState
from tests.scenarios.conftest import OpenHouse
from tests.scenarios.scripts import ANSWER, PLAN, TOOLS

Event = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult
CODEBASE, DOCUMENTATION = "coordinator_get_codebase_context", "coordinator_get_documentation_context"

READ = """
  - when: {template: coordinator_main, tool_result: "retries three times", offers: [read_files]}
    times: 1
    reply:
      text: Let me read it.
      tools: [{name: read_files, input: {paths: [shop/orders.py]}}]
"""
CHANGES = """
  - when: {template: coordinator_main, tool_result: "RETRIES = 3", offers: [coordinator_get_codebase_context]}
    times: 1
    reply:
      tools: [{name: coordinator_get_codebase_context, input: {query: "who calls it?"}}]
"""
STALLED = """
  - when: {text: stalled}
    reply: {text: never, fault: {stall: true, after_chunks: 0}}
"""


async def ask(opened: Any, query: str = "Where are payments retried?", **options: Any) -> list[Event]:
    return [event async for event in opened.client.ask(query, **options)]


def plans(events: list[Event]) -> list[list[str]]:
    return [[call.tool for call in event.plan.calls] for event in events if event.HasField("plan")]


async def test_results_lead_to_further_rounds_and_a_thought_is_taken_back(
    open_house: OpenHouse, stores: dict[str, str]
) -> None:
    async with open_house(PLAN, TOOLS, READ, CHANGES, ANSWER, **stores) as opened:
        events = await ask(opened)
        prompts = [record.rule for record in opened.bedrock.invoice.records()]
    result = events[-1].result
    assert result.outcome == Result.OUTCOME_COMPLETE, result
    assert plans(events) == [[CODEBASE, DOCUMENTATION], ["read_files"], [CODEBASE]]
    assert [event.plan.thought for event in events if event.HasField("plan")][1] == "Let me read it."
    assert result.metadata.rounds == 3
    assert len(result.jobs) == 3
    assert any(event.answer_text.restart for event in events)
    assert "Let me read" not in result.answer
    assert len(prompts) == 4 + 3


@pytest.mark.parametrize(
    ("limits", "jobs"), [({"max_rounds": 1}, {CODEBASE, DOCUMENTATION}), ({"max_jobs": 1}, {CODEBASE})]
)
async def test_a_request_at_its_limit_of_rounds_or_jobs_answers_from_what_it_has(
    open_house: OpenHouse, limits: dict[str, Any], jobs: set[str]
) -> None:
    async with open_house(PLAN, TOOLS, READ, ANSWER) as opened:
        result = (await ask(opened, **limits))[-1].result
    assert result.answer.startswith("Payments are retried three times")
    assert {job.tool for job in result.jobs} == jobs


async def test_jobs_beyond_the_parallel_ones_wait_for_a_place(open_house: OpenHouse) -> None:
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        events = await ask(opened, max_parallel_jobs=1)
    assert events[-1].result.outcome == Result.OUTCOME_COMPLETE
    states = [event.job_update.job for event in events if event.job_update.job.tool != "coordinate"]
    order = [JobState(job.state) for job in states if job.job_id]
    first_end = order.index(JobState.SUCCEEDED)
    assert order[:first_end].count(JobState.RUNNING) == 1
    assert order.count(JobState.SUCCEEDED) == 2


async def test_an_answer_names_only_files_that_there_are(open_house: OpenHouse) -> None:
    answer = ANSWER.replace("in shop/orders.py.", "in shop/orders.py, README.md and shop/invented.py.")
    async with open_house(answer) as opened:
        result = (await ask(opened))[-1].result
    assert [citation.path for citation in result.citations] == ["shop/orders.py", "README.md"]


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ('{"times": 3}', "{}", Result.OUTCOME_COMPLETE),
        ('{"times": "three"}', '{"times": 3}', Result.OUTCOME_COMPLETE),
        ('{"times": "three"}', '{"times": "still three"}', Result.OUTCOME_PARTIAL),
    ],
    ids=["valid", "mended", "invalid"],
)
async def test_an_answer_in_json_keeps_to_the_callers_schema_or_says_that_it_does_not(
    open_house: OpenHouse, first: str, second: str, outcome: int
) -> None:
    rules = [
        f"""
  - when: {{template: coordinator_main}}
    {times}
    reply: {{tools: [{{name: submit_result, input_text: '{written}'}}]}}
"""
        for times, written in (("times: 1", first), ("", second))
    ]
    async with open_house(*rules) as opened:
        events = await ask(
            opened,
            response_format=coordinator_pb2.RESPONSE_FORMAT_JSON,
            response_schema='{"type": "object", "properties": {"times": {"type": "integer"}}, "required": ["times"]}',
        )
    result = events[-1].result
    assert result.outcome == outcome, result
    if outcome == Result.OUTCOME_COMPLETE:
        assert result.answer_json["times"] == 3
    else:
        assert result.error.reason == common_pb2.END_REASON_LLM_ERROR
        assert "still three" in result.answer


async def test_a_model_that_is_not_to_be_had_is_replaced_and_the_caller_is_told(open_house: OpenHouse) -> None:
    denied = """
  - when: {model: "amazon.nova-lite*", template: coordinator_main}
    reply: {text: x, fault: {error: AccessDeniedException}}
"""
    async with open_house(denied, ANSWER) as opened:
        events = await ask(opened)
    result = events[-1].result
    assert result.outcome == Result.OUTCOME_COMPLETE
    assert result.metadata.model_ids
    assert not result.metadata.model_ids[0].startswith("amazon.nova-lite")
    assert [event for event in events if "nova-lite" in event.warning.message]


async def test_requests_are_listed_by_tenant_state_and_time_in_pages(
    open_house: OpenHouse, stores: dict[str, str]
) -> None:
    async with open_house(STALLED, ANSWER, **stores) as opened:
        running = opened.client.ask("stalled", tenant="a", request_id="running", timeout=60)
        await anext(running)
        for number in range(3):
            await ask(opened, tenant="a", request_id=f"done-{number}")
        await ask(opened, tenant="b", request_id="other")

        async def listed(**fields: Any) -> list[str]:
            ids: list[str] = []
            token = ""
            while True:
                page = await opened.client.list_requests(page_size=2, page_token=token, **fields)
                assert len(page.requests) <= 2
                ids += [request.id for request in page.requests]
                token = page.next_page_token
                if not token:
                    return ids

        assert await listed(tenant="a") == ["done-2", "done-1", "done-0", "running"]
        assert await listed(tenant="a", states=[common_pb2.JOB_STATE_RUNNING]) == ["running"]
        assert set(await listed()) == {"done-2", "done-1", "done-0", "running", "other"}
        created = (await opened.client.get("done-1")).create_time
        assert await listed(tenant="a", created_after=created) == ["done-2", "done-1"]
        assert await listed(tenant="a", created_before=created) == ["done-0", "running"]
        await running.aclose()


async def test_overload_sheds_new_requests_and_leaves_the_running_ones_alone(open_house: OpenHouse) -> None:
    slow = ANSWER.replace("chunk_chars: 8", "chunk_chars: 4, chunk_s: 0.1")
    async with open_house(slow, coordinator={"max_requests": 2}) as opened:
        running = [asyncio.create_task(ask(opened, tenant=name, request_id=name)) for name in ("a", "b")]
        while len((await opened.client.list_requests()).requests) < 2:  # noqa: ASYNC110  # another process decides it
            await asyncio.sleep(0.01)
        with pytest.raises(LimitReached) as caught:
            await ask(opened, tenant="c")
        assert caught.value.retry_after
        again = await ask(opened, tenant="a", request_id="a")  # it is there already, and no further one
        results = [(await task)[-1].result for task in running]
    assert [result.outcome for result in results] == [Result.OUTCOME_COMPLETE] * 2
    assert again[-1].result == results[0]


async def test_an_id_belongs_to_one_question(open_house: OpenHouse) -> None:
    async with open_house(ANSWER) as opened:
        await ask(opened, request_id="taken")
        with pytest.raises(Conflict):
            await ask(opened, "Another question", request_id="taken")
