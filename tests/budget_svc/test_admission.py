"""What fits and what does not: limits at every level, conclusions, quotas, time, tenants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dbp.budget.v1 import budget_pb2
from dbp.common.v1 import common_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2

from budget_svc.settings import TenantSettings
from budget_svc.tenants import Period
from svc_common.channel import call
from svc_common.errors import ErrorReason
from tests.budget_svc.house import House, ManualClock, amount, refused

OpenHouse = Callable[..., Awaitable[House]]


async def test_a_charge_must_fit_at_every_level(house: House) -> None:
    await house.create("request", 100)
    await house.create("a", 80, parent_id="request")
    await house.create("b", 80, parent_id="request")
    await house.reserve("c1", "a", 60)
    held = await refused(house.reserve("c2", "b", 41))
    assert held.reason is ErrorReason.BUDGET_HELD
    assert held.metadata == {"budget_id": "request", "available_pico_usd": "40", "required_pico_usd": "41"}
    assert held.retry_after is not None
    assert held.retry_after > 0
    await house.reserve("c3", "b", 40)
    await house.settle("c1", 60)
    exceeded = await refused(house.reserve("c4", "b", 41))
    assert (exceeded.reason, exceeded.retry_after) == (ErrorReason.BUDGET_EXCEEDED, None)
    assert exceeded.metadata["budget_id"] == "request"
    assert await house.balances("request") == (60, 40)
    assert await house.balances("b") == (0, 40)


async def test_what_never_fits_is_said_before_what_only_does_not_fit_now(house: House) -> None:
    await house.create("request", 50)
    await house.create("job", 100, parent_id="request")
    await house.reserve("c", "job", 45)
    error = await refused(house.reserve("d", "job", 60))
    assert (error.reason, error.metadata["budget_id"]) == (ErrorReason.BUDGET_EXCEEDED, "request")


async def test_only_a_conclusion_may_use_the_conclusion_reserve(house: House) -> None:
    await house.create("job", 100, conclusion_reserve=30)
    assert (await house.budget("job")).available.pico_usd == 70
    assert (await refused(house.reserve("c", "job", 71))).reason is ErrorReason.BUDGET_EXCEEDED
    await house.reserve("c", "job", 70)
    assert (await refused(house.reserve("d", "job", 30))).reason is ErrorReason.BUDGET_HELD
    charge = await house.reserve("d", "job", 30, is_conclusion=True)
    assert charge.is_conclusion
    assert (await refused(house.reserve("e", "job", 2, is_conclusion=True))).reason is ErrorReason.BUDGET_HELD


async def test_tokens_have_a_quota_beside_money(house: House) -> None:
    await house.create("job", 10**9, token_quota=100)
    await house.reserve("c", "job", 60)
    held = await refused(house.reserve("d", "job", 41))
    assert (held.reason, held.metadata["available_tokens"]) == (ErrorReason.BUDGET_HELD, "40")
    await house.settle("c", 60)
    assert (await refused(house.reserve("d", "job", 41))).reason is ErrorReason.TOKEN_QUOTA_EXCEEDED
    await house.reserve("d", "job", 40)


async def test_a_call_without_time_to_be_useful_is_refused(house: House, clock: ManualClock) -> None:
    await house.create("request", 100, deadline=clock.time + 10_000_000)
    job = await house.create("job", 100, parent_id="request")
    assert job.deadline.ToMicroseconds() == clock.time + 10_000_000
    await house.reserve("c", "job", 10, min_useful_time=10)
    error = await refused(house.reserve("d", "job", 10, min_useful_time=10.1))
    assert (error.reason, error.metadata) == (ErrorReason.TIME_BUDGET_EXCEEDED, {"budget_id": "job"})
    clock.pass_seconds(10)
    assert (await refused(house.reserve("d", "job", 10))).reason is ErrorReason.TIME_BUDGET_EXCEEDED
    await house.settle("c", 5)  # what runs may still be settled


async def test_budgets_are_created_all_or_none_and_once(house: House) -> None:
    request = budget_pb2.CreateBudgetsRequest(
        budgets=[
            budget_pb2.NewBudget(id="request", tenant="acme", limit=amount(100)),
            budget_pb2.NewBudget(id="job", parent_id="request", limit=amount(50)),
        ]
    )
    for _ in range(2):
        budgets = (await call(house.stub.CreateBudgets, request)).budgets
        assert [(budget.id, budget.parent_id) for budget in budgets] == [
            ("request", "tenant/acme/2026-11-23"),
            ("job", "request"),
        ]
    request.budgets.add(id="other", parent_id="none", limit=amount(1))
    assert (await refused(call(house.stub.CreateBudgets, request))).reason is ErrorReason.BUDGET_NOT_FOUND
    request.budgets[-1].CopyFrom(budget_pb2.NewBudget(id="new", parent_id="request", limit=amount(1)))
    request.budgets[0].limit.pico_usd = 101
    assert (await refused(call(house.stub.CreateBudgets, request))).reason is ErrorReason.BUDGET_CONFLICT
    assert (await refused(house.budget("new"))).reason is ErrorReason.BUDGET_NOT_FOUND
    assert len(await house.entries()) == 3


async def test_a_refused_operation_leaves_no_tenants_budget_behind(house: House) -> None:
    await refused(house.create("request", -1))
    tenants = "tenant/acme/2026-11-23"
    await refused(house.reserve("c", tenants, 10**18))
    await refused(house.adjust(tenants, -1))
    assert await house.entries() == []
    await house.reserve("c", tenants, 10)
    assert await house.balances(tenants) == (0, 10)


async def test_a_repeated_creation_finds_the_budget_as_it_stands(house: House) -> None:
    await house.create("request", 100)
    await house.adjust("request", 300)
    assert (await house.create("request", 100)).limit.pico_usd == 300


async def test_a_limit_may_rise_and_fall_under_what_is_spent(house: House) -> None:
    await house.create("request", 100, conclusion_reserve=20)
    await house.reserve("c", "request", 80)
    await house.settle("c", 50)
    lowered = await house.adjust("request", 10)
    assert (lowered.limit.pico_usd, lowered.conclusion_reserve.pico_usd) == (10, 10)
    assert (lowered.spent.pico_usd, lowered.available.pico_usd) == (50, -50)
    assert (await refused(house.reserve("d", "request", 2))).reason is ErrorReason.BUDGET_EXCEEDED
    await house.adjust("request", 200, conclusion_reserve=0)
    await house.reserve("d", "request", 150)
    assert await house.verify() == []


async def test_a_budget_that_makes_no_sense_is_refused(house: House) -> None:
    for field, fields in (
        ("budgets[0].tenant", {"tenant": ""}),
        ("budgets[0].tenant", {"tenant": "a/b"}),
        ("budgets[0].id", {"id": "tenant/x/all"}),
        ("budgets[0].token_quota", {"token_quota": -1}),
        ("budgets[0].deadline", {"deadline": Timestamp(seconds=3 * 10**13)}),
        ("budgets[0].deadline", {"deadline": Timestamp(seconds=-1)}),
        ("budgets[0].tool", {"tool": "a\0"}),
        ("limit", {"limit": amount(-1)}),
        ("conclusion_reserve", {"conclusion_reserve": amount(11)}),
        ("budgets[0].limit", {"limit": None}),
        ("budgets[0].limit", {"limit": common_pb2.Amount(pico_usd=5, money=money_pb2.Money(units=1))}),
    ):
        new = budget_pb2.NewBudget(**{"id": "b", "tenant": "acme", "limit": amount(10), **fields})  # type: ignore[arg-type]
        request = budget_pb2.CreateBudgetsRequest(budgets=[new])
        error = await refused(call(house.stub.CreateBudgets, request))
        assert (error.reason, error.violations[0].field) == (ErrorReason.INVALID_ARGUMENT, field)
    await house.create("b", 10)
    assert (await refused(house.create("c", 10, parent_id="b", tenant="other"))).reason is ErrorReason.INVALID_ARGUMENT
    assert (await refused(house.adjust("b", -1))).reason is ErrorReason.INVALID_ARGUMENT


async def test_a_tenant_has_its_limit_anew_each_period(open_house: OpenHouse, clock: ManualClock) -> None:
    house = await open_house(
        default_tenant=TenantSettings(limit_usd=100),
        tenants={
            "monthly": TenantSettings(period=Period.MONTH, limit_usd=50),
            "forever": TenantSettings(period=Period.NONE, limit_usd=10, token_quota=7, conclusion_reserve_usd=2),
        },
    )
    assert (await house.create("r1", 1000, tenant="acme")).parent_id == "tenant/acme/2026-11-23"
    assert (await house.create("r2", 1000, tenant="monthly")).parent_id == "tenant/monthly/2026-11"
    assert (await house.create("r3", 1000, tenant="forever")).parent_id == "tenant/forever/all"
    forever = await house.budget("tenant/forever/all")
    assert (forever.limit.pico_usd, forever.token_quota, forever.conclusion_reserve.pico_usd) == (10, 7, 2)
    await house.reserve("c", "r1", 100, dispatch=True)
    assert (await refused(house.reserve("d", "r1", 2))).metadata["budget_id"] == "tenant/acme/2026-11-23"
    clock.pass_seconds(24 * 3600)
    assert (await house.create("r4", 1000, tenant="acme")).parent_id == "tenant/acme/2026-11-24"
    await house.reserve("d", "r4", 100)
    assert (await house.create("r1", 1000, tenant="acme")).parent_id == "tenant/acme/2026-11-23"


async def test_an_estimate_says_what_would_be_held_and_why(house: House) -> None:
    request = budget_pb2.EstimateChargeRequest(model_id="dear", max_input_tokens=10, max_output_tokens=2)
    response = await call(house.stub.EstimateCharge, request)
    assert response.worst_case.pico_usd == 10 * 3_750_000 + 2 * 75_000_000  # as if all input were written to a cache
    assert (response.price.input_pico_usd, response.price.source) == (3_000_000, "test")
    request.model_id = "gpt"
    assert (await refused(call(house.stub.EstimateCharge, request))).reason is ErrorReason.MODEL_NOT_PRICED
