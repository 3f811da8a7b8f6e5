"""Proving balances from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

from budget_svc.budgets import Budget


@dataclass(slots=True)
class Sums:
    """Sums over ledger entries; each field is named as the balance that it proves."""

    spent: int = 0
    held: int = 0
    held_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    charge_count: int = 0

    def add(self, other: Sums) -> None:
        for name in _BALANCES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_BALANCES = tuple(balance.name for balance in fields(Sums))


@dataclass(frozen=True, slots=True)
class OwnSums:
    """What the ledger and the open charges say of one budget alone, without those under it."""

    entries: int = 0
    limit: int = 0
    conclusion_reserve: int = 0
    sums: Sums = field(default_factory=Sums)
    open_amount: int = 0
    open_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """A balance that the ledger does not prove: what is recorded and what was computed."""

    budget_id: str
    balance: str
    recorded: int
    computed: int


def differences(budgets: Mapping[str, Budget], own: Mapping[str, OwnSums]) -> list[Difference]:
    """Compares every balance with the ledger's sum over its budget and all below, and every hold with the open charges.

    Budgets that have entries or charges and do not exist, or do not hang together as a tree, are differences too.
    """
    totals = {budget_id: Sums() for budget_id in budgets}
    found = list(_breaks(budgets))
    for budget_id, each in own.items():
        if budget_id not in budgets:
            found.append(Difference(budget_id, "missing budget", 0, 1))
        for above in _path(budgets, budget_id):
            totals[above].add(each.sums)
        found += _compare(budget_id, "open charges", each.open_amount, each.sums.held)
        found += _compare(budget_id, "open charges' tokens", each.open_tokens, each.sums.held_tokens)
    for budget_id, budget in budgets.items():
        each = own.get(budget_id, OwnSums())
        found += _compare(budget_id, "limit", budget.limit, each.limit)
        found += _compare(budget_id, "conclusion_reserve", budget.conclusion_reserve, each.conclusion_reserve)
        recorded = _recorded(budget)
        for name in _BALANCES:
            found += _compare(budget_id, name, getattr(recorded, name), getattr(totals[budget_id], name))
    return found


def _breaks(budgets: Mapping[str, Budget]) -> Iterator[Difference]:
    """Budgets from which no way leads up to the top."""
    for budget_id in budgets:
        *_, last = _path(budgets, budget_id)
        if budgets[last].parent_id:
            yield Difference(budget_id, "way to the top", 0, 1)


def _path(budgets: Mapping[str, Budget], budget_id: str) -> Iterator[str]:
    """The budget and those above it, as far as they exist, each once."""
    seen: set[str] = set()
    while budget_id in budgets and budget_id not in seen:
        seen.add(budget_id)
        yield budget_id
        budget_id = budgets[budget_id].parent_id


def _recorded(budget: Budget) -> Sums:
    return Sums(
        spent=budget.spent,
        held=budget.held,
        held_tokens=budget.held_tokens,
        input_tokens=budget.tokens.input_tokens,
        output_tokens=budget.tokens.output_tokens,
        cache_read_tokens=budget.tokens.cache_read_tokens,
        cache_write_tokens=budget.tokens.cache_write_tokens,
        charge_count=budget.charge_count,
    )


def _compare(budget_id: str, balance: str, recorded: int, computed: int) -> list[Difference]:
    return [] if recorded == computed else [Difference(budget_id, balance, recorded, computed)]
