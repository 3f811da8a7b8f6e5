"""Between messages of the contract and domain objects."""

from __future__ import annotations

from datetime import date, timedelta

from dbp.budget.v1 import budget_pb2

from budget_svc.budgets import Budget, NewBudget
from budget_svc.charges import Charge, ChargeState
from budget_svc.ledger import Cause, Entry
from budget_svc.operations import AdjustBudget, Reserve
from budget_svc.prices import ListedPrice
from budget_svc.proof import Difference
from budget_svc.queries import Usage
from svc_common.errors import invalid_field
from svc_common.money import from_amount, to_amount
from svc_common.times import MICROS, from_duration, from_timestamp, to_timestamp
from svc_common.tokens import TokenUsage, to_token_usage

DEFAULT_LEASE_MICROS = 60 * MICROS

# Far above what any model takes, and low enough that counters of tokens cannot leave int64.
MAX_TOKENS = 10**12

DEFAULT_PAGE_SIZE = 50
MAX_DIFFERENCES = 100


def new_budget_from(message: budget_pb2.NewBudget, field: str) -> NewBudget:
    if not message.parent_id and not message.tenant:
        raise invalid_field(f"{field}.tenant", "is required without a parent_id")
    return NewBudget(
        id=message.id,
        limit=from_amount(message.limit, f"{field}.limit"),
        parent_id=message.parent_id,
        tenant=message.tenant,
        tool=message.tool,
        conclusion_reserve=from_amount(message.conclusion_reserve, f"{field}.conclusion_reserve"),
        deadline=from_timestamp(message.deadline),
        token_quota=message.token_quota,
    )


def adjust_from(request: budget_pb2.AdjustBudgetRequest) -> AdjustBudget:
    reserve = from_amount(request.conclusion_reserve, "conclusion_reserve")
    return AdjustBudget(
        request.budget_id,
        from_amount(request.limit, "limit"),
        reserve if request.HasField("conclusion_reserve") else None,
    )


def reserve_from(request: budget_pb2.ReserveChargeRequest, listed: ListedPrice) -> Reserve:
    return Reserve(
        charge_id=request.charge_id,
        budget_id=request.budget_id,
        model_id=request.model_id,
        tier=listed.tier,
        price=listed.price,
        max_input_tokens=request.max_input_tokens,
        max_output_tokens=request.max_output_tokens,
        lease=from_duration(request.lease) or DEFAULT_LEASE_MICROS,
        is_conclusion=request.is_conclusion,
        dispatch=request.dispatch,
        min_useful_time=from_duration(request.min_useful_time),
    )


def usage_from(request: budget_pb2.SettleChargeRequest) -> TokenUsage | None:
    if not request.HasField("usage"):
        return None
    usage = request.usage
    for sort in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"):
        if not 0 <= getattr(usage, sort) <= MAX_TOKENS:
            raise invalid_field(f"usage.{sort}", f"must be from 0 to {MAX_TOKENS}")
    return TokenUsage(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens)


def budget_to(budget: Budget) -> budget_pb2.Budget:
    return budget_pb2.Budget(
        id=budget.id,
        parent_id=budget.parent_id,
        tenant=budget.tenant,
        limit=to_amount(budget.limit),
        conclusion_reserve=to_amount(budget.conclusion_reserve),
        spent=to_amount(budget.spent),
        held=to_amount(budget.held),
        available=to_amount(budget.available),
        deadline=to_timestamp(budget.deadline),
        token_quota=budget.token_quota,
        tokens=to_token_usage(budget.tokens),
        held_tokens=budget.held_tokens,
        charge_count=budget.charge_count,
        create_time=to_timestamp(budget.create_time),
    )


_STATES = {state: budget_pb2.Charge.State.Value(f"STATE_{state.name}") for state in ChargeState}


def charge_to(charge: Charge) -> budget_pb2.Charge:
    if not charge.budget_id:
        return budget_pb2.Charge(id=charge.id, state=_STATES[charge.state])
    is_charged = charge.state in (ChargeState.SETTLED, ChargeState.CHARGED_IN_FULL)
    return budget_pb2.Charge(
        id=charge.id,
        budget_id=charge.budget_id,
        model_id=charge.model_id,
        state=_STATES[charge.state],
        reserved=to_amount(charge.reserved),
        cost=to_amount(charge.cost) if is_charged else None,
        usage=to_token_usage(charge.usage) if charge.state is ChargeState.SETTLED else None,
        over_reserved=charge.over_reserved,
        expire_time=to_timestamp(charge.expire_time),
        is_conclusion=charge.is_conclusion,
    )


def page_from(token: str) -> int:
    """The sequence after which a page begins."""
    if not token:
        return 0
    if not token.isascii() or not token.isdigit() or len(token) > 18:
        raise invalid_field("page_token", "is not one that this service gave")
    return int(token)


def page_to(sequence: int) -> str:
    return str(sequence)


_CAUSES = {cause: budget_pb2.LedgerEntry.Cause.Value(f"CAUSE_{cause.name}") for cause in Cause}


def entry_to(entry: Entry) -> budget_pb2.LedgerEntry:
    change = entry.change
    return budget_pb2.LedgerEntry(
        sequence=entry.sequence,
        time=to_timestamp(entry.time),
        cause=_CAUSES[change.cause],
        budget_id=entry.budget_id,
        charge_id=entry.charge_id,
        held_delta_pico_usd=change.held,
        spent_delta_pico_usd=change.spent,
        tokens=to_token_usage(change.tokens),
        model_id=entry.model_id,
        limit_delta_pico_usd=change.limit,
        held_tokens_delta=change.held_tokens,
        charge_count=change.charges,
        conclusion_reserve_delta_pico_usd=change.conclusion_reserve,
    )


def usage_to(usage: Usage) -> budget_pb2.UsageRow:
    return budget_pb2.UsageRow(
        tenant=usage.tenant,
        model_id=usage.model_id,
        tool=usage.tool,
        day=(date(1970, 1, 1) + timedelta(days=usage.day)).isoformat(),
        charge_count=usage.charges,
        tokens=to_token_usage(usage.tokens),
        cost=to_amount(usage.cost),
    )


def difference_to(difference: Difference) -> budget_pb2.LedgerDifference:
    return budget_pb2.LedgerDifference(
        budget_id=difference.budget_id,
        balance=difference.balance,
        recorded=difference.recorded,
        computed=difference.computed,
    )


def price_to(listed: ListedPrice) -> budget_pb2.ModelPrice:
    rates = listed.price.rates
    return budget_pb2.ModelPrice(
        model_id=listed.model_id,
        service_tier=listed.tier,
        input_pico_usd=rates.input,
        output_pico_usd=rates.output,
        cache_read_pico_usd=rates.cache_read,
        cache_write_pico_usd=rates.cache_write,
        effective_date=listed.effective,
        source=listed.source,
    )
