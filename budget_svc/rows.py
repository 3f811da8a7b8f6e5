"""Between rows and domain objects. Rows are tuples with the columns of their table in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from budget_svc import tables
from budget_svc.budgets import Budget
from budget_svc.charges import Charge, ChargeState
from budget_svc.ledger import Cause, Change, Entry
from budget_svc.prices import decode_price
from svc_common.tokens import TokenUsage

Row = tuple[Any, ...]

BUDGET_COLUMNS = tuple(tables.budgets.c.keys())
# What of a budget may change.
BALANCE_COLUMNS = BUDGET_COLUMNS[BUDGET_COLUMNS.index("limit_amount") :]
CHARGE_COLUMNS = tuple(tables.charges.c.keys())
# What of a charge may change.
OUTCOME_COLUMNS = CHARGE_COLUMNS[CHARGE_COLUMNS.index("state") :]
# The store numbers entries.
ENTRY_COLUMNS = tuple(tables.ledger.c.keys())[1:]


def _tokens(usage: TokenUsage) -> Row:
    return (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens)


def balances_to_row(budget: Budget) -> Row:
    return (
        budget.limit,
        budget.conclusion_reserve,
        budget.spent,
        budget.held,
        *_tokens(budget.tokens),
        budget.held_tokens,
        budget.charge_count,
        budget.passed_percent,
    )


def budget_to_row(budget: Budget) -> Row:
    return (
        budget.id,
        budget.parent_id,
        budget.tenant,
        budget.tool,
        budget.terms,
        budget.create_time,
        budget.deadline,
        budget.token_quota,
        *balances_to_row(budget),
    )


def budget_from(row: Sequence[Any]) -> Budget:
    budget_id, parent_id, tenant, tool, terms, created, deadline, quota, limit, reserve, spent, held, *rest = row
    *tokens, held_tokens, charge_count, passed_percent = rest
    return Budget(
        budget_id,
        parent_id,
        tenant,
        tool,
        terms,
        created,
        deadline,
        quota,
        limit,
        reserve,
        spent,
        held,
        TokenUsage(*tokens),
        held_tokens,
        charge_count,
        passed_percent,
    )


def outcome_to_row(charge: Charge) -> Row:
    return (
        int(charge.state),
        charge.expire_time,
        charge.end_time,
        charge.cost,
        *_tokens(charge.usage),
        charge.over_reserved,
    )


def charge_to_row(charge: Charge) -> Row:
    return (
        charge.id,
        charge.budget_id,
        charge.model_id,
        charge.tier,
        charge.price.encoded(),
        charge.is_conclusion,
        charge.max_input_tokens,
        charge.max_output_tokens,
        charge.reserved,
        charge.create_time,
        *outcome_to_row(charge),
    )


def charge_from(row: Sequence[Any]) -> Charge:
    charge_id, budget_id, model_id, tier, price, is_conclusion, most_input, most_output, reserved, created, *rest = row
    state, expires, ended, cost, *tokens, over_reserved = rest
    return Charge(
        charge_id,
        budget_id,
        model_id,
        tier,
        decode_price(price),
        bool(is_conclusion),
        most_input,
        most_output,
        reserved,
        created,
        ChargeState(state),
        expires,
        ended,
        cost,
        TokenUsage(*tokens),
        bool(over_reserved),
    )


def entry_to_row(entry: Entry) -> Row:
    change = entry.change
    return (
        entry.time,
        entry.budget_id,
        entry.tenant,
        entry.tool,
        int(change.cause),
        entry.charge_id,
        entry.model_id,
        change.held,
        change.spent,
        change.held_tokens,
        *_tokens(change.tokens),
        change.charges,
        change.limit,
        change.conclusion_reserve,
    )


def entry_from(row: Sequence[Any]) -> Entry:
    sequence, time, budget_id, tenant, tool, cause, charge_id, model_id, held, spent, held_tokens, *rest = row
    *tokens, charges, limit, conclusion_reserve = rest
    change = Change(Cause(cause), held, spent, held_tokens, TokenUsage(*tokens), charges, limit, conclusion_reserve)
    return Entry(time, budget_id, tenant, tool, change, charge_id, model_id, sequence)
