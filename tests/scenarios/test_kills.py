"""SIGKILL of each service at each stage of a request: it ends complete or partial in time, and the watch has no gap.

Real processes, supervised as `dbp up` does it, a scripted Bedrock, real signals.
"""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import product
from pathlib import Path

import pytest
from dbp.budget.v1 import budget_pb2
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2

from dbp_client import AsyncClient
from dbp_client.house import SERVICES, House
from local_bedrock.invoice import InvoiceRecord, fetch_invoice
from svc_common.channel import call
from tests.scenarios.scripts import ANSWER, PLAN, TOOLS, script
from tests.support.house import billed_pico_usd, small_repository

Event = coordinator_pb2.RequestEvent
Result = coordinator_pb2.RequestResult

SLOW_PLAN = PLAN.replace("reply:", "reply:\n      first_token_s: 0.7", 1)
SLOW_TOOLS = TOOLS.replace("reply:", "reply:\n      first_token_s: 0.7")
SLOW_ANSWER = ANSWER.replace("chunk_chars: 8", "chunk_chars: 2, chunk_s: 0.05")


async def reached(stage: str, event: Event, bedrock_url: str) -> bool:
    match stage:
        case "plan":
            # Long before there is a plan its model is asked for one, and has been paid.
            while not await asyncio.to_thread(plans, bedrock_url):
                continue
            return True
        case "jobs":
            job = event.job_update.job
            return job.tool.startswith("coordinator_get") and job.state == common_pb2.JOB_STATE_RUNNING
        case _:
            return event.WhichOneof("event") == "answer_text"


def plans(bedrock_url: str) -> list[InvoiceRecord]:
    """Calls of the coordinator's model for a plan."""
    return [record for record in fetch_invoice(bedrock_url) if record.rule == "plan"]


# Each victim and each store in the default run; the others are the long form.
SHORT = {
    ("tool_svc", "jobs", "sqlite"),
    ("coordinator_svc", "answer", "sqlite"),
    ("coordinator_svc", "plan", "postgresql"),
    ("jobs_svc", "jobs", "sqlite"),
    ("jobs_svc", "answer", "postgresql"),
    ("budget_svc", "jobs", "postgresql"),
}
KILLS = [
    pytest.param(*case, marks=() if case in SHORT else pytest.mark.long)
    for case in product(SERVICES, ("plan", "jobs", "answer"), ("sqlite", "postgresql"))
]


@pytest.mark.parametrize(("victim", "stage", "store"), KILLS)
async def test_a_kill_costs_at_most_time(
    victim: str,
    stage: str,
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if store == "postgresql":
        for short in ("JOBS", "BUDGET"):
            url = request.getfixturevalue(f"{short.lower()}_database_url")
            monkeypatch.setenv(f"DBP_{short}_DATABASE_URL", url)
    monkeypatch.setenv("DBP_JOBS_LEASE_SECONDS", "2")
    rules = tmp_path / "script.yaml"
    rules.write_text(script(SLOW_PLAN, SLOW_TOOLS, SLOW_ANSWER))
    workspace = small_repository(tmp_path / "workspace")
    async with (
        House(tmp_path / "data", {"default": workspace}, bedrock=str(rules), free_ports=True) as house,
        AsyncClient(house.settings, patience=20) as client,
    ):
        events: list[Event] = []
        killed = False
        async for event in client.ask("Where are payments retried?", timeout=40, max_cost="0.50"):
            events.append(event)
            if not killed and await reached(stage, event, house.bedrock_url):
                killed = True
                os.kill(house.process_id(victim), signal.SIGKILL)
        ledger = await client.verify_ledger()
        spent = budget_pb2.GetBudgetRequest(budget_id=events[0].accepted.request_id)
        budget = (await call(client.budget.GetBudget, spent)).budget
        invoice = fetch_invoice(house.bedrock_url)
    result = events[-1].result
    assert killed
    assert result.outcome in (Result.OUTCOME_COMPLETE, Result.OUTCOME_PARTIAL), result
    assert result.answer
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    answer = ""
    for event in events:
        answer = ("" if event.answer_text.restart else answer) + event.answer_text.text
    assert answer == result.answer
    assert events[-1].time.ToMicroseconds() <= events[0].accepted.deadline.ToMicroseconds()
    assert not list(ledger.differences)
    # What a dead process had sent stays held until its lease ends, and is then charged in full.
    paid = budget.spent.pico_usd + budget.held.pico_usd
    assert billed_pico_usd(invoice) <= paid <= 500_000_000_000
    # A turn that was checkpointed is not asked for, nor paid, again. A queue away for longer than a lease loses the attempt.
    asked = [record for record in invoice if record.rule == "plan"]
    assert len(asked) in {("coordinator_svc", "plan"): (2,), ("jobs_svc", "plan"): (1, 2)}.get((victim, stage), (1,))
