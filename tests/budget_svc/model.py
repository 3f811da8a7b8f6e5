"""What the ledger should say, written as simply as can be: no balances, only charges that are added up whenever somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from budget_svc.charges import ChargeState
from svc_common.errors import ErrorReason

RESERVED, DISPATCHED = ChargeState.RESERVED, ChargeState.DISPATCHED
SETTLED, IN_FULL = ChargeState.SETTLED, ChargeState.CHARGED_IN_FULL
RELEASED, EXPIRED = ChargeState.RELEASED, ChargeState.EXPIRED
OPEN = (RESERVED, DISPATCHED)


@dataclass
class ModelBudget:
    parent: str
    limit: int
    reserve: int
    quota: int
    deadline: int
    # How far above its limit it may be: limits that were lowered, and calls that used more than they had reserved.
    excused: int = 0


@dataclass
class ModelCharge:
    budget: str
    amount: int
    is_conclusion: bool
    expires: int
    state: ChargeState
    ended: int = 0
    cost: int = 0
    is_folded: bool = False

    @property
    def content(self) -> tuple[str, int, bool]:
        return self.budget, self.amount, self.is_conclusion


@dataclass
class Model:
    """Each operation returns the charge's state or the reason of a refusal.

    Tokens cost 1 pico-USD each, so that money and tokens are the same numbers.
    """

    now: int
    budgets: dict[str, ModelBudget] = field(default_factory=dict)
    charges: dict[str, ModelCharge] = field(default_factory=dict)
    folded: list[ModelCharge] = field(default_factory=list)

    def path(self, budget: str) -> Iterator[str]:
        while budget:
            yield budget
            budget = self.budgets[budget].parent

    def under(self, budget: str) -> list[ModelCharge]:
        every = [*self.charges.values(), *self.folded]
        return [charge for charge in every if charge.budget and budget in self.path(charge.budget)]

    def spent(self, budget: str) -> int:
        return sum(charge.cost for charge in self.under(budget))

    def held(self, budget: str) -> int:
        return sum(charge.amount for charge in self.under(budget) if charge.state in OPEN)

    def count(self, budget: str) -> int:
        return sum(charge.state in (SETTLED, IN_FULL) for charge in self.under(budget))

    def reserve(
        self, charge_id: str, budget: str, amount: int, lease: int, is_conclusion: bool, dispatch: bool
    ) -> ChargeState | ErrorReason:
        if known := self.charges.get(charge_id):
            self.expire(known)
            if known.state not in OPEN:
                return ErrorReason.CHARGE_STATE
            if known.content != (budget, amount, is_conclusion):
                return ErrorReason.BUDGET_CONFLICT
            if dispatch:
                known.state = DISPATCHED
            return known.state
        if refusal := self.refusal(budget, amount, is_conclusion):
            return refusal
        state = DISPATCHED if dispatch else RESERVED
        self.charges[charge_id] = ModelCharge(budget, amount, is_conclusion, self.now + lease, state)
        return state

    def refusal(self, budget: str, amount: int, is_conclusion: bool) -> ErrorReason | None:
        if budget not in self.budgets:
            return ErrorReason.BUDGET_NOT_FOUND
        path = list(self.path(budget))
        if any(0 < self.budgets[level].deadline <= self.now for level in path):
            return ErrorReason.TIME_BUDGET_EXCEEDED
        for level in path:
            each = self.budgets[level]
            if self.spent(level) + amount > each.limit - (0 if is_conclusion else each.reserve):
                return ErrorReason.BUDGET_EXCEEDED
            if each.quota and self.spent(level) + amount > each.quota:
                return ErrorReason.TOKEN_QUOTA_EXCEEDED
        for level in path:
            each = self.budgets[level]
            used = self.spent(level) + self.held(level) + amount
            if used > each.limit - (0 if is_conclusion else each.reserve) or (each.quota and used > each.quota):
                return ErrorReason.BUDGET_HELD
        return None

    def dispatch(self, charge_id: str) -> ChargeState | ErrorReason:
        if charge_id not in self.charges:
            return ErrorReason.CHARGE_NOT_FOUND
        charge = self.expire(self.charges[charge_id])
        if charge.state not in OPEN:
            return ErrorReason.CHARGE_STATE
        charge.state = DISPATCHED
        return charge.state

    def renew(self, charge_id: str, lease: int) -> ChargeState | ErrorReason:
        if charge_id not in self.charges:
            return ErrorReason.CHARGE_NOT_FOUND
        charge = self.expire(self.charges[charge_id])
        if charge.state not in OPEN:
            return ErrorReason.CHARGE_STATE
        charge.expires = self.now + lease
        return charge.state

    def release(self, charge_id: str) -> ChargeState | ErrorReason:
        if charge_id not in self.charges:
            self.charges[charge_id] = ModelCharge("", 0, False, self.now, RELEASED, self.now)
            return RELEASED
        charge = self.expire(self.charges[charge_id])
        if charge.state is RESERVED:
            self.end(charge, RELEASED, 0)
        return charge.state if charge.state in (RELEASED, EXPIRED) else ErrorReason.CHARGE_STATE

    def settle(self, charge_id: str, usage: int | None) -> ChargeState | ErrorReason:
        if charge_id not in self.charges:
            return ErrorReason.CHARGE_NOT_FOUND
        charge = self.charges[charge_id]
        if charge.state is RESERVED:
            self.expire(charge)
        if charge.state is RELEASED:
            return ErrorReason.CHARGE_STATE
        if charge.state is EXPIRED:
            self.excuse(charge, charge.amount)
        if usage is None:
            if charge.state in (*OPEN, EXPIRED):
                self.end(charge, IN_FULL, charge.amount)
            return charge.state
        if charge.state is SETTLED and usage != charge.cost:
            return ErrorReason.CHARGE_STATE
        if charge.state is not SETTLED:
            self.excuse(charge, max(0, usage - charge.amount))
            self.end(charge, SETTLED, usage)
        return SETTLED

    def excuse(self, charge: ModelCharge, amount: int) -> None:
        for level in self.path(charge.budget):
            self.budgets[level].excused += amount

    def expire(self, charge: ModelCharge) -> ModelCharge:
        if charge.state in OPEN and charge.expires <= self.now:
            if charge.state is RESERVED:
                self.end(charge, EXPIRED, 0)
            else:
                self.end(charge, IN_FULL, charge.amount)
        return charge

    def end(self, charge: ModelCharge, state: ChargeState, cost: int) -> None:
        if charge.state is not state:
            charge.state, charge.cost, charge.ended = state, cost, self.now

    def sweep(self) -> None:
        for charge in self.charges.values():
            self.expire(charge)

    def fold(self, ended_before: int) -> None:
        for charge_id, charge in list(self.charges.items()):
            if charge.state not in OPEN and charge.ended < ended_before:
                self.folded.append(self.charges.pop(charge_id))

    def adjust(self, budget: str, limit: int, reserve: int | None) -> None:
        each = self.budgets[budget]
        each.excused = max(0, each.excused + each.limit - limit)
        each.reserve = min(each.reserve, limit) if reserve is None else reserve
        each.limit = limit
