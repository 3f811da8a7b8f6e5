"""The budgets of tenants: they come into being on first use, one per period, with the limits of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from budget_svc.budgets import NewBudget
from svc_common.times import MICROS

PREFIX = "tenant/"

# A budget is asked for a moment before it is made, so the period may have turned in between.
_TURN_MICROS = 60 * MICROS


class Period(StrEnum):
    """How long a tenant's limit holds before a new one begins (UTC)."""

    DAY = "day"
    MONTH = "month"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """Amounts are pico-USD; a quota of 0 is none."""

    period: Period
    limit: int
    conclusion_reserve: int = 0
    token_quota: int = 0


class Tenants:
    """The terms of each tenant: its own or the default ones."""

    def __init__(self, default: TenantTerms, own: Mapping[str, TenantTerms]) -> None:
        self._default = default
        self._own = own

    def terms(self, tenant: str) -> TenantTerms:
        return self._own.get(tenant, self._default)

    def budget_id(self, tenant: str, now: int) -> str:
        """Id of the budget that the tenant spends from at that time: "tenant/<name>/<period>"."""
        return f"{PREFIX}{tenant}/{_period_name(self.terms(tenant).period, now)}"

    def define(self, budget_id: str, now: int) -> NewBudget | None:
        """The tenant budget with this id, or None if it is none or not one of the present period."""
        tenant, _, _ = budget_id.removeprefix(PREFIX).rpartition("/")
        current = (self.budget_id(tenant, now), self.budget_id(tenant, now - _TURN_MICROS))
        if not tenant or budget_id not in current:
            return None
        terms = self.terms(tenant)
        return NewBudget(
            budget_id,
            terms.limit,
            tenant=tenant,
            conclusion_reserve=terms.conclusion_reserve,
            token_quota=terms.token_quota,
        )


def _period_name(period: Period, now: int) -> str:
    day = datetime.fromtimestamp(now // MICROS, UTC)
    match period:
        case Period.DAY:
            return f"{day:%Y-%m-%d}"
        case Period.MONTH:
            return f"{day:%Y-%m}"
        case Period.NONE:
            return "all"
