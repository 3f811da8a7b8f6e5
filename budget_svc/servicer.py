"""BudgetService: parse, call, format. Errors are raised as ServiceError and become statuses in the interceptor."""

from __future__ import annotations

from collections.abc import AsyncIterator

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc

from budget_svc import wire
from budget_svc.keeper import Keeper
from budget_svc.operations import CreateBudgets, Dispatch, Release, Renew, Settle
from budget_svc.prices import PriceList
from svc_common.money import to_amount
from svc_common.server_interceptor import Context
from svc_common.times import MICROS, Clock, from_duration, from_timestamp


class BudgetServicer(budget_pb2_grpc.BudgetServiceServicer):
    def __init__(self, keeper: Keeper, prices: PriceList, clock: Clock) -> None:
        self._keeper = keeper
        self._prices = prices
        self._clock = clock

    async def CreateBudgets(
        self, request: budget_pb2.CreateBudgetsRequest, context: Context
    ) -> budget_pb2.CreateBudgetsResponse:
        new = tuple(wire.new_budget_from(each, f"budgets[{index}]") for index, each in enumerate(request.budgets))
        budgets = await self._keeper.do(CreateBudgets(new))
        return budget_pb2.CreateBudgetsResponse(budgets=map(wire.budget_to, budgets))

    async def GetBudget(self, request: budget_pb2.GetBudgetRequest, context: Context) -> budget_pb2.GetBudgetResponse:
        return budget_pb2.GetBudgetResponse(budget=wire.budget_to(await self._keeper.budget(request.budget_id)))

    async def AdjustBudget(
        self, request: budget_pb2.AdjustBudgetRequest, context: Context
    ) -> budget_pb2.AdjustBudgetResponse:
        budget = await self._keeper.do(wire.adjust_from(request))
        return budget_pb2.AdjustBudgetResponse(budget=wire.budget_to(budget))

    async def ReserveCharge(
        self, request: budget_pb2.ReserveChargeRequest, context: Context
    ) -> budget_pb2.ReserveChargeResponse:
        listed = self._prices.find(request.model_id, request.service_tier, now=self._clock())
        charge = await self._keeper.reserve(
            wire.reserve_from(request, listed),
            priority=request.priority,
            max_wait=from_duration(request.max_wait) / MICROS,
        )
        return budget_pb2.ReserveChargeResponse(charge=wire.charge_to(charge))

    async def DispatchCharge(
        self, request: budget_pb2.DispatchChargeRequest, context: Context
    ) -> budget_pb2.DispatchChargeResponse:
        charge = await self._keeper.do(Dispatch(request.charge_id))
        return budget_pb2.DispatchChargeResponse(charge=wire.charge_to(charge))

    async def SettleCharge(
        self, request: budget_pb2.SettleChargeRequest, context: Context
    ) -> budget_pb2.SettleChargeResponse:
        charge = await self._keeper.do(Settle(request.charge_id, wire.usage_from(request)))
        return budget_pb2.SettleChargeResponse(charge=wire.charge_to(charge))

    async def ReleaseCharge(
        self, request: budget_pb2.ReleaseChargeRequest, context: Context
    ) -> budget_pb2.ReleaseChargeResponse:
        charge = await self._keeper.do(Release(request.charge_id))
        return budget_pb2.ReleaseChargeResponse(charge=wire.charge_to(charge))

    async def RenewCharge(
        self, request: budget_pb2.RenewChargeRequest, context: Context
    ) -> budget_pb2.RenewChargeResponse:
        lease = from_duration(request.lease) or wire.DEFAULT_LEASE_MICROS
        charge = await self._keeper.do(Renew(request.charge_id, lease))
        return budget_pb2.RenewChargeResponse(charge=wire.charge_to(charge))

    async def EstimateCharge(
        self, request: budget_pb2.EstimateChargeRequest, context: Context
    ) -> budget_pb2.EstimateChargeResponse:
        listed = self._prices.find(request.model_id, request.service_tier, now=self._clock())
        worst_case = listed.price.worst_case(request.max_input_tokens, request.max_output_tokens)
        return budget_pb2.EstimateChargeResponse(worst_case=to_amount(worst_case), price=wire.price_to(listed))

    async def GetUsage(self, request: budget_pb2.GetUsageRequest, context: Context) -> budget_pb2.GetUsageResponse:
        start, end = from_timestamp(request.start_time), from_timestamp(request.end_time)
        rows = await self._keeper.usage(request.tenant, start, end)
        return budget_pb2.GetUsageResponse(rows=map(wire.usage_to, rows))

    async def ListLedgerEntries(
        self, request: budget_pb2.ListLedgerEntriesRequest, context: Context
    ) -> budget_pb2.ListLedgerEntriesResponse:
        size = request.page_size or wire.DEFAULT_PAGE_SIZE
        entries = await self._keeper.entries(request.budget_id, wire.page_from(request.page_token), size + 1)
        page = entries[:size]
        return budget_pb2.ListLedgerEntriesResponse(
            entries=map(wire.entry_to, page),
            next_page_token=wire.page_to(page[-1].sequence) if len(entries) > size else "",
        )

    async def VerifyLedger(
        self, request: budget_pb2.VerifyLedgerRequest, context: Context
    ) -> budget_pb2.VerifyLedgerResponse:
        budgets, entries, differences = await self._keeper.verify()
        return budget_pb2.VerifyLedgerResponse(
            checked_budgets=budgets,
            checked_entries=entries,
            differences=map(wire.difference_to, differences[: wire.MAX_DIFFERENCES]),
        )

    async def WatchThresholds(
        self, request: budget_pb2.WatchThresholdsRequest, context: Context
    ) -> AsyncIterator[budget_pb2.WatchThresholdsResponse]:
        async for budget, percent in self._keeper.thresholds(request.budget_id):
            yield budget_pb2.WatchThresholdsResponse(
                budget_id=budget.id,
                percent=percent,
                spent=to_amount(budget.spent),
                held=to_amount(budget.held),
                limit=to_amount(budget.limit),
            )
