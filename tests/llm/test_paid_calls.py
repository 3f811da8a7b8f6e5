"""Metering by the real budget service: what the endpoint bills is never more than what is recorded, nor that than the limit."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.common.v1 import common_pb2

from budget_svc import server as budget_server
from budget_svc.settings import BudgetSettings
from llm.catalogue import load_catalogue
from llm.instance import InstanceResult
from llm.metering import BudgetMeter
from llm.runner import LlmRunner
from llm.templates import Template
from local_bedrock.backends.script import Fault, Reply, ToolCall
from local_bedrock.calls import ModelCall
from local_bedrock.errors import STATUS_OF_ERROR
from local_bedrock.invoice import billed_tokens
from local_bedrock.server import RunningEndpoint
from svc_common.channel import call, open_channel
from svc_common.endings import EndReason
from svc_common.money import to_amount
from svc_common.settings import CommonSettings
from tests.llm.support import HAIKU, NOVA, RememberingHost, catalogue, make_task, settings, until

Make = Callable[..., LlmRunner]
BUDGET = "request-1"


@dataclass
class Ledger:
    """A running budget service and what tests ask of it."""

    stub: budget_pb2_grpc.BudgetServiceAsyncStub

    @property
    def meter(self) -> BudgetMeter:
        return BudgetMeter(self.stub, patience=2.0)

    async def open(self, limit: int, reserve: int = 0) -> None:
        budget = budget_pb2.NewBudget(
            id=BUDGET, tenant="test", limit=to_amount(limit), conclusion_reserve=to_amount(reserve)
        )
        await call(self.stub.CreateBudgets, budget_pb2.CreateBudgetsRequest(budgets=[budget]))

    async def budget(self) -> budget_pb2.Budget:
        return (await call(self.stub.GetBudget, budget_pb2.GetBudgetRequest(budget_id=BUDGET))).budget

    async def invoice(self, endpoint: RunningEndpoint) -> int:
        """Pico-USD of all that the endpoint bills."""
        total = 0
        for (model_id, _), usage in billed_tokens(endpoint.invoice.records()).items():
            price = (await call(self.stub.EstimateCharge, budget_pb2.EstimateChargeRequest(model_id=model_id))).price
            total += usage.input_tokens * price.input_pico_usd + usage.output_tokens * price.output_pico_usd
            total += usage.cache_read_tokens * price.cache_read_pico_usd
            total += usage.cache_write_tokens * price.cache_write_pico_usd
        return total


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    url = f"sqlite:///{tmp_path}/budget.sqlite"
    service = await budget_server.start(BudgetSettings(listen="127.0.0.1:0", database_url=url))
    channel = open_channel(f"127.0.0.1:{service.port}", CommonSettings())
    yield Ledger(budget_pb2_grpc.BudgetServiceStub(channel))
    await channel.close(None)
    await service.stop()


async def test_a_call_is_charged_what_it_used_to_the_pico_usd(
    endpoint: RunningEndpoint, ledger: Ledger, make_runner: Make, free_text: Template
) -> None:
    endpoint.load_script(lambda _: Reply(text="an answer of some length"))
    await ledger.open(limit=10**12)

    result = await make_runner(ledger.meter).run(make_task(free_text, budget_id=BUDGET), RememberingHost())

    budget = await ledger.budget()
    assert result.cost == budget.spent.pico_usd == await ledger.invoice(endpoint) > 0
    assert (budget.held.pico_usd, budget.charge_count) == (0, 1)
    assert budget.tokens == common_pb2.TokenUsage(
        input_tokens=result.usage.input_tokens, output_tokens=result.usage.output_tokens
    )


async def test_at_its_limit_an_instance_concludes_from_what_is_held_back(
    endpoint: RunningEndpoint, ledger: Ledger, make_runner: Make, free_text: Template
) -> None:
    counter = iter(range(1000))

    def decide(call: ModelCall) -> Reply:
        if call.offered_tools:
            return Reply(tools=(ToolCall(name="read_files", input={"paths": [f"{next(counter)}.py"]}),))
        return Reply(text="what I know")

    endpoint.load_script(decide)
    await ledger.open(limit=1_200_000_000, reserve=400_000_000)
    task = make_task(free_text, budget_id=BUDGET, max_rounds=50)

    result = await make_runner(ledger.meter).run(task, RememberingHost())

    budget = await ledger.budget()
    assert (result.text, result.reason) == ("what I know", EndReason.BUDGET_EXCEEDED)
    assert result.rounds > 2
    assert await ledger.invoice(endpoint) == budget.spent.pico_usd <= budget.limit.pico_usd
    assert result.cost == budget.spent.pico_usd


async def test_a_model_without_a_price_is_passed_over(
    endpoint: RunningEndpoint, ledger: Ledger, make_runner: Make, free_text: Template
) -> None:
    endpoint.load_script(lambda call: Reply(text=call.model_id))
    await ledger.open(limit=10**12)
    runner = make_runner(ledger.meter, catalogue("amazon.nova-unheard-of", NOVA))

    result = await runner.run(make_task(free_text, budget_id=BUDGET), RememberingHost())

    assert result.text == NOVA


async def test_a_budget_service_that_goes_away_ends_the_instance_with_what_it_has(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template
) -> None:
    channel = open_channel("127.0.0.1:1", CommonSettings())
    meter = BudgetMeter(budget_pb2_grpc.BudgetServiceStub(channel), patience=0.1)

    runner = make_runner(meter, llm_settings=settings(settling_seconds=0.1))

    result = await runner.run(make_task(free_text), RememberingHost())
    await runner.close()
    await channel.close(None)

    assert (result.is_partial, result.reason) == (True, EndReason.INTERNAL_ERROR)
    assert endpoint.invoice.records() == []


async def test_every_model_of_the_catalogue_has_a_price(ledger: Ledger) -> None:
    for model_id in load_catalogue().models:
        assert (await ledger.meter.prices(model_id)).input >= 0


@pytest.mark.parametrize("seed", [1, 2])
async def test_under_concurrency_faults_and_cancels_the_invoice_stays_under_the_ledger_and_that_under_the_limit(
    endpoint: RunningEndpoint, ledger: Ledger, make_runner: Make, free_text: Template, seed: int
) -> None:
    chance = random.Random(seed)
    limit = 60_000_000_000
    await ledger.open(limit)
    endpoint.load_script(lambda _: random_reply(chance))
    runner = make_runner(
        ledger.meter,
        catalogue(NOVA, HAIKU),
        settings(concurrent_calls=50, concurrent_calls_per_model=50, stall_seconds=0.5),
    )
    tasks = [
        make_task(free_text, seconds=4, instance_id=f"job-{number}", budget_id=BUDGET, max_rounds=2)
        for number in range(50)
    ]

    running = [asyncio.create_task(runner.run(task, RememberingHost())) for task in tasks]
    for victim in chance.sample(running, 10):
        await asyncio.sleep(chance.random() * 0.05)
        victim.cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)
    await runner.close()
    await until(lambda: not endpoint.running_calls)

    assert all(isinstance(end, InstanceResult | asyncio.CancelledError) for end in ended)
    budget = await ledger.budget()
    assert budget.held.pico_usd == 0
    assert 0 < await ledger.invoice(endpoint) <= budget.spent.pico_usd <= limit
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bedrock_")]
    assert not [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == endpoint.port]


def random_reply(chance: random.Random) -> Reply:
    pace = {"chunk_s": chance.choice([0.0, 0.0, 0.002]), "first_token_s": chance.choice([0.0, 0.0, 0.05])}
    if chance.random() < 0.5:
        tools = (
            (ToolCall(name="read_files", input={"paths": [f"{chance.random()}.py"]}),) if chance.random() < 0.4 else ()
        )
        return Reply(text="word " * chance.randrange(1, 60), tools=tools, **pace)
    after = chance.choice([None, 0, 3])
    kind = chance.choice(["error", "error", "drop", "stall", "byte"])
    match kind:
        case "error":
            fault = Fault(error=chance.choice(sorted(STATUS_OF_ERROR)), after_chunks=after)
        case "byte":
            fault = Fault(drop_at_byte=chance.randrange(1, 900))
        case _:
            fault = Fault(drop=kind == "drop", stall=kind == "stall", after_chunks=after)
    return Reply(text="word " * 30, fault=fault, **pace)
