"""A started budget_svc and the calls of its tests, in words that keep the tests short.

The model "penny" costs 1 pico-USD for each token of any sort, so a charge for N tokens holds N pico-USD.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.common.v1 import common_pb2

from budget_svc.server import BudgetService, start
from budget_svc.settings import BudgetSettings
from svc_common.channel import call, open_channel
from svc_common.errors import ServiceError
from svc_common.settings import CommonSettings
from svc_common.times import MICROS, duration_from_seconds, to_timestamp

PENNY = "penny"
PRICES = """
[[price]]
model = "penny"
input = 1
output = 1
cache_read = 1
cache_write = 1
effective = 2026-11-23
source = "test"

[[price]]
model = "dear"
input = 3_000_000
output = 75_000_000
cache_read = 300_000
cache_write = 3_750_000
effective = 2026-11-23
source = "test"
"""

Charge = budget_pb2.Charge
Budget = budget_pb2.Budget


class ManualClock:
    """Epoch microseconds; stands still until the test moves it. Begins at 2026-11-23 06:00 UTC."""

    def __init__(self, time: int = 1_795_413_600 * MICROS) -> None:
        self.time = time

    def __call__(self) -> int:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += int(seconds * MICROS)


class House:
    """One replica and a client of it."""

    def __init__(self, service: BudgetService, clock: ManualClock) -> None:
        self.service = service
        self.clock = clock
        self.channel = open_channel(f"127.0.0.1:{service.port}", CommonSettings())
        self.stub = budget_pb2_grpc.BudgetServiceStub(self.channel)

    @classmethod
    async def open(cls, database_url: str, clock: ManualClock, settings: Mapping[str, Any]) -> House:
        service = await start(BudgetSettings(listen="127.0.0.1:0", database_url=database_url, **settings), clock)
        return cls(service, clock)

    async def close(self) -> None:
        await self.channel.close(None)
        await self.service.stop()

    async def create(self, budget_id: str, limit: int, **fields: Any) -> Budget:
        if "parent_id" not in fields:
            fields.setdefault("tenant", "acme")
        if "conclusion_reserve" in fields:
            fields["conclusion_reserve"] = amount(fields["conclusion_reserve"])
        if "deadline" in fields:
            fields["deadline"] = to_timestamp(fields["deadline"])
        new = budget_pb2.NewBudget(id=budget_id, limit=amount(limit), **fields)
        response = await call(self.stub.CreateBudgets, budget_pb2.CreateBudgetsRequest(budgets=[new]))
        return response.budgets[0]

    async def budget(self, budget_id: str) -> Budget:
        request = budget_pb2.GetBudgetRequest(budget_id=budget_id)
        return (await call(self.stub.GetBudget, request)).budget

    async def balances(self, budget_id: str) -> tuple[int, int]:
        """What is spent and held in a budget."""
        budget = await self.budget(budget_id)
        return budget.spent.pico_usd, budget.held.pico_usd

    async def adjust(self, budget_id: str, limit: int, conclusion_reserve: int | None = None) -> Budget:
        request = budget_pb2.AdjustBudgetRequest(budget_id=budget_id, limit=amount(limit))
        if conclusion_reserve is not None:
            request.conclusion_reserve.CopyFrom(amount(conclusion_reserve))
        return (await call(self.stub.AdjustBudget, request)).budget

    async def reserve(self, charge_id: str, budget_id: str, cost: int, **fields: Any) -> Charge:
        """Reserves `cost` (2 or more) pico-USD, which is as many tokens."""
        for name in ("max_wait", "min_useful_time", "lease"):
            if name in fields:
                fields[name] = duration_from_seconds(fields[name])
        tokens = {"max_input_tokens": cost - 1, "max_output_tokens": 1}
        fields = {"model_id": PENNY, **tokens, **fields}
        request = budget_pb2.ReserveChargeRequest(charge_id=charge_id, budget_id=budget_id, **fields)
        return (await call(self.stub.ReserveCharge, request)).charge

    async def dispatch(self, charge_id: str) -> Charge:
        return (await call(self.stub.DispatchCharge, budget_pb2.DispatchChargeRequest(charge_id=charge_id))).charge

    async def settle(self, charge_id: str, cost: int | None = None, **tokens: int) -> Charge:
        """Settles at `cost` input tokens, at the given tokens, or without usage."""
        request = budget_pb2.SettleChargeRequest(charge_id=charge_id)
        if cost is not None:
            tokens = {"input_tokens": cost}
        if tokens:
            request.usage.CopyFrom(common_pb2.TokenUsage(**tokens))
        return (await call(self.stub.SettleCharge, request)).charge

    async def release(self, charge_id: str) -> Charge:
        return (await call(self.stub.ReleaseCharge, budget_pb2.ReleaseChargeRequest(charge_id=charge_id))).charge

    async def renew(self, charge_id: str, lease: float) -> Charge:
        request = budget_pb2.RenewChargeRequest(charge_id=charge_id, lease=duration_from_seconds(lease))
        return (await call(self.stub.RenewCharge, request)).charge

    async def entries(self, budget_id: str = "") -> list[budget_pb2.LedgerEntry]:
        request = budget_pb2.ListLedgerEntriesRequest(budget_id=budget_id, page_size=1000)
        return list((await call(self.stub.ListLedgerEntries, request)).entries)

    async def verify(self) -> list[budget_pb2.LedgerDifference]:
        """What the ledger does not prove."""
        return list((await call(self.stub.VerifyLedger, budget_pb2.VerifyLedgerRequest())).differences)


def amount(pico_usd: int) -> common_pb2.Amount:
    return common_pb2.Amount(pico_usd=pico_usd)


async def refused(call: Awaitable[object]) -> ServiceError:
    """The error of a call that must fail."""
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value
