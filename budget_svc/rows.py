"""Between rows and domain objects."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping

from budget_svc.budgets import Budget
from budget_svc.charges import Charge, ChargeState
from budget_svc.ledger import Cause, Change, Entry
from budget_svc.prices import decode_price
from budget_svc.tokens import TokenUsage

Row = dict[str, Any]


def tokens_to_row(usage: TokenUsage) -> Row:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
    }


def tokens_from(row: RowMapping) -> TokenUsage:
    return TokenUsage(row["input_tokens"], row["output_tokens"], row["cache_read_tokens"], row["cache_write_tokens"])


def balances_to_row(budget: Budget) -> Row:
    """What of a budget may change."""
    return {
        "limit_amount": budget.limit,
        "conclusion_reserve": budget.conclusion_reserve,
        "spent": budget.spent,
        "held": budget.held,
        **tokens_to_row(budget.tokens),
        "held_tokens": budget.held_tokens,
        "charge_count": budget.charge_count,
        "passed_percent": budget.passed_percent,
    }


def budget_to_row(budget: Budget) -> Row:
    return {
        "id": budget.id,
        "parent_id": budget.parent_id,
        "tenant": budget.tenant,
        "tool": budget.tool,
        "terms": budget.terms,
        "create_time": budget.create_time,
        "deadline": budget.deadline,
        "token_quota": budget.token_quota,
        **balances_to_row(budget),
    }


def budget_from(row: RowMapping) -> Budget:
    return Budget(
        id=row["id"],
        parent_id=row["parent_id"],
        tenant=row["tenant"],
        tool=row["tool"],
        terms=row["terms"],
        create_time=row["create_time"],
        deadline=row["deadline"],
        token_quota=row["token_quota"],
        limit=row["limit_amount"],
        conclusion_reserve=row["conclusion_reserve"],
        spent=row["spent"],
        held=row["held"],
        tokens=tokens_from(row),
        held_tokens=row["held_tokens"],
        charge_count=row["charge_count"],
        passed_percent=row["passed_percent"],
    )


def outcome_to_row(charge: Charge) -> Row:
    """What of a charge may change."""
    return {
        "state": int(charge.state),
        "expire_time": charge.expire_time,
        "end_time": charge.end_time,
        "cost": charge.cost,
        **tokens_to_row(charge.usage),
    }


def charge_to_row(charge: Charge) -> Row:
    return {
        "id": charge.id,
        "budget_id": charge.budget_id,
        "model_id": charge.model_id,
        "tier": charge.tier,
        "price": charge.price.encoded(),
        "is_conclusion": charge.is_conclusion,
        "max_input_tokens": charge.max_input_tokens,
        "max_output_tokens": charge.max_output_tokens,
        "reserved": charge.reserved,
        "create_time": charge.create_time,
        **outcome_to_row(charge),
    }


def charge_from(row: RowMapping) -> Charge:
    return Charge(
        id=row["id"],
        budget_id=row["budget_id"],
        model_id=row["model_id"],
        tier=row["tier"],
        price=decode_price(row["price"]),
        is_conclusion=row["is_conclusion"],
        max_input_tokens=row["max_input_tokens"],
        max_output_tokens=row["max_output_tokens"],
        reserved=row["reserved"],
        state=ChargeState(row["state"]),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        end_time=row["end_time"],
        cost=row["cost"],
        usage=tokens_from(row),
    )


def entry_to_row(entry: Entry) -> Row:
    change = entry.change
    return {
        "time": entry.time,
        "budget_id": entry.budget_id,
        "tenant": entry.tenant,
        "tool": entry.tool,
        "cause": int(change.cause),
        "charge_id": entry.charge_id,
        "model_id": entry.model_id,
        "held": change.held,
        "spent": change.spent,
        "held_tokens": change.held_tokens,
        **tokens_to_row(change.tokens),
        "charges": change.charges,
        "limit_amount": change.limit,
    }


def entry_from(row: RowMapping) -> Entry:
    change = Change(
        cause=Cause(row["cause"]),
        held=row["held"],
        spent=row["spent"],
        held_tokens=row["held_tokens"],
        tokens=tokens_from(row),
        charges=row["charges"],
        limit=row["limit_amount"],
    )
    return Entry(
        time=row["time"],
        budget_id=row["budget_id"],
        tenant=row["tenant"],
        tool=row["tool"],
        change=change,
        charge_id=row["charge_id"],
        model_id=row["model_id"],
        sequence=row["sequence"],
    )
