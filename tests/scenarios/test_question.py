"""One question through the whole house: what the caller sees when all goes well, and when something does not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2

from coordinator_svc.fanout import Fanout
from coordinator_svc.jobs_client import new_job
from coordinator_svc.requests import KIND, RequestSpec
from svc_common.channel import call
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS, duration_from_seconds, now
from tests.scenarios.conftest import OpenHouse
from tests.scenarios.scripts import ANSWER, PLAN, TOOLS
from tests.support.house import TestHouse, billed_pico_usd

Event = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult


async def ask(opened: TestHouse, **options: Any) -> list[Event]:
    return [event async for event in opened.client.ask("Where are payments retried?", **options)]


def kinds(events: list[Event]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]


async def test_a_question_runs_from_plan_to_answer_and_its_costs_add_up(
    open_house: OpenHouse, stores: dict[str, str]
) -> None:
    async with open_house(PLAN, TOOLS, ANSWER, **stores) as opened:
        events = await ask(opened, max_cost="0.50")
        result = events[-1].result
        ledger = await opened.client.verify_ledger()
        invoice = opened.bedrock.invoice.records()

    assert kinds(events)[0] == "accepted"
    assert kinds(events)[-1] == "result"
    assert kinds(events).count("result") == 1
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert {"plan", "job_update", "answer_text", "spend"} <= set(kinds(events))

    assert result.outcome == Result.OUTCOME_COMPLETE, result
    assert "".join(event.answer_text.text for event in events) == result.answer
    assert [citation.path for citation in result.citations] == ["shop/orders.py"]
    assert {job.tool for job in result.jobs} == {
        "coordinator_get_codebase_context",
        "coordinator_get_documentation_context",
    }
    assert not list(result.missing)

    spent = result.metadata.cost.pico_usd
    assert not list(ledger.differences)
    assert 0 < sum(job.cost.pico_usd for job in result.jobs) < spent <= 500_000_000_000
    assert billed_pico_usd(invoice) == spent


async def test_choosing_no_tool_is_an_answer_too(open_house: OpenHouse) -> None:
    async with open_house(ANSWER) as opened:
        events = await ask(opened)
    assert events[-1].result.outcome == Result.OUTCOME_COMPLETE
    assert not events[-1].result.jobs


async def test_a_failed_tool_leaves_the_others_and_is_named(open_house: OpenHouse) -> None:
    broken = """
  - when: {template: coordinator_get_documentation_context}
    reply: {text: x, fault: {error: ModelErrorException}}
"""
    async with open_house(PLAN, broken, TOOLS, ANSWER) as opened:
        result = (await ask(opened))[-1].result
    assert result.outcome == Result.OUTCOME_PARTIAL
    assert result.answer
    assert any("documentation" in missing for missing in result.missing)
    states = {job.tool: common_pb2.JobState.Name(job.state) for job in result.jobs}
    assert states["coordinator_get_codebase_context"] == "JOB_STATE_SUCCEEDED"


async def test_a_model_that_never_answers_is_a_failed_request_with_its_reason(open_house: OpenHouse) -> None:
    async with open_house() as opened:  # no rule fits, so every model call fails
        result = (await ask(opened, request_id="hopeless"))[-1].result
        request = await opened.client.get("hopeless")
    assert result.outcome == Result.OUTCOME_FAILED
    assert result.error.reason == common_pb2.END_REASON_LLM_ERROR
    assert request.state == common_pb2.JOB_STATE_FAILED
    assert request.result == result


async def test_a_watch_for_jobs_that_breaks_is_taken_up_again(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Fanout._watch
    watches: list[Fanout] = []

    async def breaks_once(self: Fanout) -> None:
        watches.append(self)
        if len(watches) == 1:
            raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "jobs_svc has been away for too long")
        await watch(self)

    monkeypatch.setattr(Fanout, "_watch", breaks_once)
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        result = (await ask(opened))[-1].result
    assert result.outcome == Result.OUTCOME_COMPLETE
    assert len(watches) == 2


async def test_time_that_runs_out_gives_a_partial_answer_before_the_deadline(open_house: OpenHouse) -> None:
    stalled = """
  - when: {template: "coordinator_get_*"}
    reply: {text: "a beginning that goes no further", fault: {stall: true, after_chunks: 1}}
"""
    async with open_house(PLAN, stalled, ANSWER) as opened:
        events = await ask(opened, timeout=3)
        result = events[-1].result
        deadline = events[0].accepted.deadline.ToMicroseconds()
    assert result.outcome == Result.OUTCOME_PARTIAL
    assert events[-1].time.ToMicroseconds() <= deadline
    assert result.budget_use.time_exceeded
    assert result.missing
    assert opened.bedrock.running_calls == 0


async def test_money_that_runs_out_is_never_overspent(open_house: OpenHouse) -> None:
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        result = (await ask(opened, max_cost="0.0001"))[-1].result
        billed = billed_pico_usd(opened.bedrock.invoice.records())
    assert result.outcome in (Result.OUTCOME_PARTIAL, Result.OUTCOME_FAILED)
    assert result.budget_use.cost_exceeded
    assert billed <= result.metadata.cost.pico_usd <= 100_000_000


async def test_a_cancel_ends_everything_and_keeps_what_there_is(open_house: OpenHouse) -> None:
    stalled = """
  - when: {template: coordinator_get_documentation_context}
    reply: {text: "never", fault: {stall: true, after_chunks: 0}}
"""
    async with open_house(PLAN, stalled, TOOLS, ANSWER) as opened:
        events: list[Event] = []
        async for event in opened.client.ask("Where?", request_id="to-cancel", timeout=60):
            events.append(event)
            job = event.job_update.job
            if job.tool.endswith("codebase_context") and job.state == common_pb2.JOB_STATE_SUCCEEDED:
                await opened.client.cancel("to-cancel")
        result = events[-1].result
        status = await opened.client.get("to-cancel")
    assert result.error.reason == common_pb2.END_REASON_CANCELLED
    assert result.outcome == Result.OUTCOME_PARTIAL
    assert [job.tool for job in result.job_results] == ["coordinator_get_codebase_context"]
    # All but what it cost: that is known when the calls that were cut have been settled.
    assert (status.result.outcome, status.result.missing, status.result.error.reason) == (
        result.outcome,
        result.missing,
        result.error.reason,
    )


async def test_a_caller_that_leaves_takes_its_work_along(open_house: OpenHouse) -> None:
    stalled = """
  - when: {template: "*"}
    reply: {text: "never", fault: {stall: true, after_chunks: 0}}
"""
    async with open_house(stalled) as opened:
        request = coordinator_pb2.ProcessRequestRequest(request_id="left", query="Where?")
        call = opened.client.coordinator.ProcessRequest(request, timeout=60)
        async for response in call:
            assert response.event.accepted.request_id == "left"
            break
        call.cancel()
        ends = [event async for event in opened.client.watch("left") if event.WhichOneof("event") == "result"]
    assert ends[0].result.error.reason == common_pb2.END_REASON_CANCELLED


async def test_a_watch_from_any_point_sees_the_rest_and_nothing_twice(open_house: OpenHouse) -> None:
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        events = await ask(opened, request_id="watched")
        for after in (0, 1, len(events) // 2, len(events) - 1):
            again = [event async for event in opened.client.watch("watched", after)]
            assert again[0].first_sequence == after + 1
            assert again[-1].result == events[-1].result
            texts = "".join(event.answer_text.text for event in again)
            assert texts == "".join(event.answer_text.text for event in events if event.sequence > after)


async def test_the_same_request_again_gives_the_same_events_and_other_content_is_refused(open_house: OpenHouse) -> None:
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        first = await ask(opened, request_id="twice")
        second = await ask(opened, request_id="twice")
        assert second[-1].result == first[-1].result
        assert len(opened.bedrock.invoice.records()) == 4
        with pytest.raises(ServiceError) as caught:
            await ask(opened, request_id="twice", max_cost="0.02")
    assert caught.value.reason is ErrorReason.REQUEST_CONFLICT


async def test_a_request_may_continue_an_earlier_one(open_house: OpenHouse) -> None:
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        await ask(opened, request_id="first")
        seen: list[str] = []

        def remember(call: Any) -> Any:
            seen.append(call.last_user_text)
            return None

        opened.bedrock.load_script(remember)
        await ask(opened, previous_request_id="first")
        with pytest.raises(ServiceError) as caught:
            await ask(opened, previous_request_id="none")
    assert any("three times" in text for text in seen)
    assert caught.value.reason is ErrorReason.REQUEST_NOT_FOUND


async def test_a_request_that_runs_cannot_be_continued(open_house: OpenHouse) -> None:
    stalled = """
  - when: {template: "*"}
    reply: {text: "never", fault: {stall: true, after_chunks: 0}}
"""
    async with open_house(stalled) as opened:
        async for event in opened.client.ask("Where?", request_id="running"):
            if event.WhichOneof("event") == "accepted":
                with pytest.raises(ServiceError) as caught:
                    await ask(opened, previous_request_id="running")
                await opened.client.cancel("running")
    assert caught.value.reason is ErrorReason.REQUEST_NOT_ENDED


@pytest.mark.parametrize("written", ['{"path":"shop/orders.py","times":3}', '{"path": "shop/orders.py", "times": 3}'])
async def test_an_answer_in_json_is_streamed_as_it_is(open_house: OpenHouse, written: str) -> None:
    answer = f"""
  - when: {{template: coordinator_main}}
    reply: {{text: '{written}'}}
"""
    async with open_house(answer) as opened:
        events = await ask(opened, response_format=coordinator_pb2.RESPONSE_FORMAT_JSON)
    result = events[-1].result
    assert result.outcome == Result.OUTCOME_COMPLETE
    assert "".join(event.answer_text.text for event in events) == result.answer
    assert json.loads(result.answer) == {"path": "shop/orders.py", "times": 3}
    assert result.answer_json["times"] == 3
    assert [citation.path for citation in result.citations] == ["shop/orders.py"]


async def test_large_requests_can_be_listed(open_house: OpenHouse) -> None:
    async with open_house(ANSWER) as opened:
        for number in range(5):
            created = await call(
                opened.client.jobs.CreateJobs,
                jobs_pb2.CreateJobsRequest(jobs=[root_job(f"large-{number}")], claim_for_worker_id="w"),
            )
            report = jobs_pb2.JobReport(
                job_id=f"large-{number}",
                fencing_token=created.jobs[0].lease.fencing_token,
                checkpoint=b"x" * 4_000_000,
                release=jobs_pb2.Release(delay=duration_from_seconds(60)),
            )
            await call(opened.client.jobs.ReportJobs, jobs_pb2.ReportJobsRequest(worker_id="w", reports=[report]))
        page = await opened.client.list_requests()
    assert {request.query for request in page.requests} == {"Where?"}
    assert len(page.requests) == 5


def root_job(request_id: str) -> jobs_pb2.NewJob:
    spec = RequestSpec(id=request_id, tenant="default", query="Where?", workspace="default")
    return new_job(request_id, KIND, spec.to_json(), now() + 60 * MICROS, tenant="default")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"query": ""}, ErrorReason.INVALID_ARGUMENT),
        ({"query": "x" * 40_000}, ErrorReason.INVALID_ARGUMENT),
        ({"query": "q", "workspace": "nowhere"}, ErrorReason.WORKSPACE_NOT_FOUND),
        ({"query": "q", "max_cost": "-1"}, ErrorReason.INVALID_ARGUMENT),
        ({"query": "q", "max_cost": "1000000"}, ErrorReason.INVALID_ARGUMENT),
        ({"query": "q", "timeout": -5}, ErrorReason.INVALID_ARGUMENT),
        ({"query": "q", "max_rounds": 99}, ErrorReason.INVALID_ARGUMENT),
        ({"query": "q", "scope": common_pb2.Scope(directories=["../.."])}, ErrorReason.INVALID_ARGUMENT),
    ],
)
async def test_bad_input_is_refused_with_its_reason(
    open_house: OpenHouse, fields: dict[str, Any], reason: ErrorReason
) -> None:
    async with open_house(ANSWER) as opened:
        query = fields.pop("query")
        with pytest.raises(ServiceError) as caught:
            await collect(opened.client.ask(query, **fields))
    assert caught.value.reason is reason


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def test_too_many_requests_of_a_tenant_are_shed_with_a_hint(open_house: OpenHouse) -> None:
    stalled = """
  - when: {template: "*"}
    reply: {text: "never", fault: {stall: true, after_chunks: 0}}
"""
    async with open_house(stalled, coordinator={"max_requests_of_tenant": 1}) as opened:
        async for event in opened.client.ask("Where?", timeout=20):
            if event.WhichOneof("event") == "accepted":
                with pytest.raises(ServiceError) as caught:
                    await ask(opened)
                await opened.client.cancel(event.accepted.request_id)
    assert caught.value.reason is ErrorReason.OVERLOADED
    assert caught.value.retry_after is not None
