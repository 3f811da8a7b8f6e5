"""Requests that end early: what was found by then is kept, and what is not there is named with its cause."""

from __future__ import annotations

from typing import Any

import pytest
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2

import coordinator_svc.server
from coordinator_svc.coordination import Conduct
from coordinator_svc.settings import CoordinatorSettings
from dbp_client import AsyncClient
from dbp_client.house import free_port
from svc_common.endings import JobState
from svc_common.errors import ErrorReason, ServiceError
from tests.scenarios.conftest import OpenHouse
from tests.scenarios.scripts import ANSWER, PLAN, TOOLS
from tests.support.house import billed_pico_usd

Event = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult

CODEBASE, DOCUMENTATION = "coordinator_get_codebase_context", "coordinator_get_documentation_context"
STALLED_DOCUMENTATION = """
  - when: {template: coordinator_get_documentation_context}
    reply: {text: "a beginning of a document", chunk_chars: 11, fault: {stall: true, after_chunks: 1}}
"""
# The answer is what the model was told.
ECHO = """
  - when: {template: coordinator_main}
    reply: {text: "{tool_results} {last_user_text}"}
"""


async def ask(client: AsyncClient, **options: Any) -> list[Event]:
    return [event async for event in client.ask("Where are payments retried?", **options)]


def streamed(events: list[Event]) -> str:
    answer = ""
    for event in events:
        answer = ("" if event.answer_text.restart else answer) + event.answer_text.text
    return answer


async def test_a_round_that_is_cut_by_time_keeps_what_its_jobs_found(open_house: OpenHouse) -> None:
    async with open_house(PLAN, STALLED_DOCUMENTATION, TOOLS, ECHO) as opened:
        events = await ask(opened.client, timeout=3)
    result = events[-1].result
    assert result.outcome == Result.OUTCOME_PARTIAL
    assert "retries three times" in result.answer
    assert "a beginning" in result.answer
    assert {found.tool: found.is_partial for found in result.job_results} == {CODEBASE: False, DOCUMENTATION: True}
    assert all(JobState(job.state).is_terminal for job in result.jobs)
    assert events[-1].time.ToMicroseconds() <= events[0].accepted.deadline.ToMicroseconds()


async def test_a_call_whose_turn_never_comes_takes_no_other_along(open_house: OpenHouse) -> None:
    late = "coordinator_get_codebase_changelog_context"
    plan = f"{PLAN.rstrip()}\n        - {{name: {late}, input: {{query: changes}}}}\n"
    async with open_house(plan, STALLED_DOCUMENTATION, TOOLS, ECHO) as opened:
        result = (await ask(opened.client, timeout=3, max_parallel_jobs=1))[-1].result
    assert "retries three times" in result.answer
    assert {found.tool for found in result.job_results} == {CODEBASE, DOCUMENTATION}
    assert any(missing.startswith(late) for missing in result.missing)
    assert result.error.reason == common_pb2.END_REASON_TIMEOUT


async def test_a_cancelled_job_shows_its_text_and_what_it_costs(open_house: OpenHouse) -> None:
    async with open_house(PLAN, STALLED_DOCUMENTATION, TOOLS, ANSWER) as opened:
        async for event in opened.client.ask("Where?", request_id="cut", timeout=60):
            if event.WhichOneof("event") == "job_text" and "a beginning" in event.job_text.text:
                await opened.client.cancel("cut")
        result = event.result
        billed = billed_pico_usd(opened.bedrock.invoice.records())
    assert {found.tool: found.text for found in result.job_results}[DOCUMENTATION] == "a beginning"
    costs = {job.tool: job.cost.pico_usd for job in result.jobs}
    assert costs[DOCUMENTATION] > 0
    assert billed <= result.metadata.cost.pico_usd
    assert result.metadata.rounds == 1
    assert result.metadata.snapshot_id
    assert list(result.metadata.model_ids) == ["amazon.nova-lite-v1:0"]


async def test_a_service_that_is_away_all_the_time_is_named(open_house: OpenHouse) -> None:
    async with open_house(ANSWER) as opened:
        nowhere = opened.common.model_copy(update={"budget_address": f"127.0.0.1:{free_port()}"})
        front = await coordinator_svc.server.start(CoordinatorSettings(common=nowhere, listen="127.0.0.1:0"))
        address = {"coordinator_address": f"127.0.0.1:{front.port}"}
        async with AsyncClient(opened.common.model_copy(update=address)) as client:
            result = (await ask(client, timeout=2))[-1].result
        await front.stop()
    assert result.error.reason == common_pb2.END_REASON_INTERNAL_ERROR
    assert "budget_svc did not answer" in result.error.message
    assert "when the service is back" in result.missing[0]


async def test_a_coordinator_that_takes_over_after_the_last_turn_says_the_answer_again(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    conclude = Conduct._conclude
    attempts: list[int] = []

    async def dies_once(self: Conduct, *arguments: Any) -> Any:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "as if it had died")
        return await conclude(self, *arguments)

    monkeypatch.setattr(Conduct, "_conclude", dies_once)
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        events = await ask(opened.client)
        calls = opened.bedrock.invoice.records()
    assert len(attempts) == 2
    assert streamed(events) == events[-1].result.answer != ""
    assert len(calls) == 4
