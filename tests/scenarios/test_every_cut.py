"""Each way to cut a request short, at each of its stages, over both stores, with every service a process of its own.

All cases of a store run at the same time in one house, as requests do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from dbp.budget.v1 import budget_pb2
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2

from coordinator_svc.jobs_client import JobsClient
from dbp_client import AsyncClient
from dbp_client.house import House
from local_bedrock.invoice import CallState, fetch_invoice
from svc_common.channel import call
from svc_common.endings import JobState
from tests.scenarios.cuts import ANSWER, CODEBASE, DOCUMENTATION
from tests.support.house import billed_pico_usd, small_repository

Event = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult
STAGES = ("plan", "jobs", "answer")
LIMIT = 500_000_000_000


def reached(stage: str, event: Event) -> bool:
    match stage:
        case "plan":
            return event.WhichOneof("event") == "accepted"
        case "jobs":
            return "a beginning" in event.job_text.text
        case _:
            return event.WhichOneof("event") == "answer_text"


def streamed(events: list[Event]) -> str:
    answer = ""
    for event in events:
        answer = ("" if event.answer_text.restart else answer) + event.answer_text.text
    return answer


def check_whole(events: list[Event]) -> Result:
    """What holds of every request, however it ends."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.WhichOneof("event") for event in events].count("result") == 1
    result = events[-1].result
    assert all(JobState(job.state).is_terminal for job in result.jobs), result.jobs
    assert events[-1].time.ToMicroseconds() <= events[0].accepted.deadline.ToMicroseconds()
    assert result.answer == streamed(events)
    return result


async def by_time(client: AsyncClient, stage: str) -> None:
    events = [
        event async for event in client.ask(f"cut at {stage}", timeout=12, request_id=f"time-{stage}", max_cost="0.5")
    ]
    result = check_whole(events)
    assert result.outcome == Result.OUTCOME_PARTIAL
    assert result.error.reason == common_pb2.END_REASON_TIMEOUT
    assert result.budget_use.time_exceeded
    assert result.answer
    assert result.missing
    if stage == "jobs":
        found = {job.tool: job.is_partial for job in result.job_results}
        assert found == {CODEBASE: False, DOCUMENTATION: True}


async def by_cancel(client: AsyncClient, stage: str) -> None:
    events = []
    request_id = f"cancel-{stage}"
    async for event in client.ask(f"cut at {stage}", timeout=60, request_id=request_id, max_cost="0.5"):
        events.append(event)
        if reached(stage, event):
            await client.cancel(request_id)
    result = check_whole(events)
    assert result.error.reason == common_pb2.END_REASON_CANCELLED
    if stage == "jobs":
        assert ["a beginning" in job.text for job in result.job_results if job.tool == DOCUMENTATION] == [True]
    if stage == "answer":
        assert result.outcome == Result.OUTCOME_PARTIAL
        assert result.answer.startswith("Payments are retried.")
        assert {job.tool for job in result.job_results} == {CODEBASE, DOCUMENTATION}
    later = (await client.get(request_id)).result
    # All but what it cost: that is known when the calls that were cut have been settled.
    assert (later.outcome, later.answer, later.missing, later.error.reason) == (
        result.outcome,
        result.answer,
        result.missing,
        result.error.reason,
    )


async def by_leaving(client: AsyncClient, stage: str) -> None:
    request_id = f"leave-{stage}"
    request = coordinator_pb2.ProcessRequestRequest(request_id=request_id, query=f"cut at {stage}")
    rpc = client.coordinator.ProcessRequest(request, timeout=60)
    async for response in rpc:
        if reached(stage, response.event):
            break
    rpc.cancel()
    async with aclosing(JobsClient(client.jobs, 10).follow(request_id, 0)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            last = batch[-1]
    assert last.state_change.reason == common_pb2.END_REASON_CANCELLED


async def by_money(client: AsyncClient, limit: str) -> None:
    events = [event async for event in client.ask("How?", timeout=60, request_id=f"money-{limit}", max_cost=limit)]
    result = check_whole(events)
    assert result.outcome != Result.OUTCOME_FAILED, result
    if result.outcome == Result.OUTCOME_PARTIAL:
        assert result.error.reason == common_pb2.END_REASON_BUDGET_EXCEEDED
        assert result.budget_use.cost_exceeded
        assert result.missing
    assert result.metadata.cost.pico_usd <= int(limit.partition(".")[2].ljust(12, "0"))


async def uncut(client: AsyncClient, name: str) -> None:
    events = [event async for event in client.ask("How?", timeout=60, request_id=f"uncut-{name}", max_cost="0.5")]
    result = check_whole(events)
    assert (result.outcome, result.answer) == (Result.OUTCOME_COMPLETE, ANSWER)


CASES: list[tuple[Callable[[AsyncClient, str], Awaitable[None]], str]] = [
    *((cut, stage) for cut in (by_time, by_cancel, by_leaving) for stage in STAGES),
    *((by_money, limit) for limit in ("0.0002", "0.0008", "0.0015", "0.003", "0.01")),
    (uncut, "beside-them"),
]


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_whatever_cuts_a_request_short_it_ends_in_time_with_what_there_is(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls: dict[str, str] = {}
    if store == "postgresql":
        for short in ("JOBS", "BUDGET"):
            urls[f"DBP_{short}_DATABASE_URL"] = request.getfixturevalue(f"{short.lower()}_database_url")
    house = House(
        tmp_path / "data",
        {"default": small_repository(tmp_path / "workspace")},
        bedrock="tests.scenarios.cuts:answer",
        free_ports=True,
        environment=urls,
    )
    async with house, AsyncClient(house.settings) as client:
        outcomes = await asyncio.gather(*(cut(client, which) for cut, which in CASES), return_exceptions=True)
        pairs = zip(CASES, outcomes, strict=True)
        failed = [f"{cut.__name__} {which}: {error!r}" for (cut, which), error in pairs if error is not None]
        assert not failed, "\n".join(failed)
        await check_money(house, client)


async def check_money(house: House, client: AsyncClient) -> None:
    """No call goes on, and of every request: billed <= spent and held <= limit."""
    invoice = fetch_invoice(house.bedrock_url)
    assert not [record for record in invoice if record.state is CallState.RUNNING]
    by_request: dict[str, list[Any]] = {}
    for record in invoice:
        by_request.setdefault(record.metadata["request_id"], []).append(record)
    for request_id, records in by_request.items():
        budget = (await call(client.budget.GetBudget, budget_pb2.GetBudgetRequest(budget_id=request_id))).budget
        counted = budget.spent.pico_usd + budget.held.pico_usd
        assert billed_pico_usd(records) <= counted <= budget.limit.pico_usd, request_id
    assert not list((await client.verify_ledger()).differences)
