"""The working set of a transaction: applies operations one after another to the budgets and charges they touch.

Pure: the store fills a book, applies a batch to it and writes back what changed. An operation that is refused changes
nothing, except that a lease whose end it noticed has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from copy import copy
from dataclasses import dataclass
from typing import TypeAlias

from budget_svc import charges
from budget_svc.budgets import Budget, NewBudget, TransientDenial, admit, check_limit, held_by_others
from budget_svc.charges import Charge, ChargeState, Step
from budget_svc.ledger import Cause, Change, Entry
from budget_svc.operations import (
    AdjustBudget,
    CreateBudgets,
    Dispatch,
    Expire,
    Operation,
    Release,
    Renew,
    Reserve,
    ReserveInTurn,
    Settle,
)
from budget_svc.rates import Quotas, RateWindow
from budget_svc.tenants import Tenants
from svc_common.errors import ErrorReason, ServiceError, invalid_field

Value: TypeAlias = "Charge | Budget | list[Budget] | list[Charge | ServiceError]"


@dataclass(frozen=True, slots=True)
class News:
    """What others may want to know of a transaction: the levels where room came free and the budgets that passed a threshold."""

    freed: frozenset[str] = frozenset()
    passed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.freed or self.passed)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say about tenants and models."""

    tenants: Tenants
    quotas: Quotas


class Book:
    """`budgets` must hold every budget that an operation names, with all above it, `known` every charge, and `windows` the rates of
    their models, as far as they exist."""

    def __init__(
        self,
        now: int,
        policy: Policy,
        budgets: Iterable[Budget],
        known: Iterable[Charge],
        windows: Iterable[RateWindow] = (),
    ) -> None:
        self.now = now
        self._tenants = policy.tenants
        self._quotas = policy.quotas
        self.budgets = {budget.id: budget for budget in budgets}
        self.charges = {charge.id: charge for charge in known}
        self.windows = {window.model_id: window for window in windows}
        self.new_windows: set[str] = set()
        self.changed_windows: set[str] = set()
        self.new_budgets: dict[str, Budget] = {}
        self.changed_budgets: set[str] = set()
        self.new_charges: set[str] = set()
        self.changed_charges: set[str] = set()
        self.entries: list[Entry] = []
        self._freed: set[str] = set()
        self._passed: set[str] = set()

    @property
    def news(self) -> News:
        """What the operations so far brought about, those that were refused included."""
        return News(frozenset(self._freed), frozenset(self._passed))

    def apply(self, operation: Operation) -> Value:
        """Raises ServiceError when the operation is refused."""
        match operation:
            case Reserve():
                return self._reserve(operation, operation.yields_to)
            case ReserveInTurn(reserves):
                return self._reserve_in_turn(reserves)
            case Settle(charge_id, usage):
                charge = self._charge(charge_id)
                if charge.state is ChargeState.RESERVED:
                    charge = self._expired(charge)
                return self._take(charge, charges.settle(charge, usage, self.now))
            case Dispatch(charge_id):
                charge = self._expired(self._charge(charge_id))
                return self._take(charge, charges.dispatch(charge))
            case Release(charge_id):
                return self._release(charge_id)
            case Renew(charge_id, lease):
                charge = self._expired(self._charge(charge_id))
                return self._take(charge, charges.renew(charge, self.now + lease))
            case Expire(charge_id):
                return self._expired(self._charge(charge_id))
            case CreateBudgets(budgets):
                return self._create(budgets)
            case AdjustBudget():
                return self._adjust(operation)

    # Budgets

    def _create(self, wanted: tuple[NewBudget, ...]) -> list[Budget]:
        made: dict[str, Budget] = {}
        for new in wanted:
            known = self.budgets.get(new.id) or made.get(new.id)
            if known is None:
                parent_id = new.parent_id or self._tenants.budget_id(new.tenant, self.now)
                parent = made.get(parent_id) or self._budget(parent_id)
                made.update({parent_id: parent, new.id: self._defined(new, parent)})
            elif known.terms != new.terms:
                raise ServiceError(
                    ErrorReason.BUDGET_CONFLICT,
                    f"budget {new.id!r} exists with other content",
                    metadata={"budget_id": new.id},
                )
        for budget in made.values():
            self._adopt(budget)
        return [copy(self.budgets[new.id]) for new in wanted]

    def _defined(self, new: NewBudget, parent: Budget) -> Budget:
        check_limit(new.limit, new.conclusion_reserve)
        if new.tenant not in ("", parent.tenant):
            raise invalid_field("tenant", f"the parent's tenant is {parent.tenant!r}")
        return Budget(
            id=new.id,
            parent_id=parent.id,
            tenant=parent.tenant,
            tool=new.tool,
            terms=new.terms,
            create_time=self.now,
            deadline=new.deadline or parent.deadline,
            token_quota=new.token_quota,
            limit=new.limit,
            conclusion_reserve=new.conclusion_reserve,
        )

    def _budget(self, budget_id: str) -> Budget:
        """A budget as it stands, or a tenant's as it would come into being, which is for the caller to adopt."""
        if known := self.budgets.get(budget_id):
            return known
        if new := self._tenants.define(budget_id, self.now):
            return Budget(
                id=new.id,
                parent_id="",
                tenant=new.tenant,
                tool="",
                terms=new.terms,
                create_time=self.now,
                deadline=0,
                token_quota=new.token_quota,
                limit=new.limit,
                conclusion_reserve=new.conclusion_reserve,
            )
        raise ServiceError(ErrorReason.BUDGET_NOT_FOUND, f"no budget {budget_id!r}", metadata={"budget_id": budget_id})

    def _adopt(self, budget: Budget) -> None:
        """Takes in a budget, if it is new."""
        if budget.id not in self.budgets:
            self.budgets[budget.id] = self.new_budgets[budget.id] = budget
            self._record(budget, Change(Cause.CREATE, limit=budget.limit, conclusion_reserve=budget.conclusion_reserve))

    def _adjust(self, operation: AdjustBudget) -> Budget:
        budget = self._budget(operation.budget_id)
        reserve = operation.conclusion_reserve
        if reserve is None:
            reserve = min(budget.conclusion_reserve, operation.limit)
        check_limit(operation.limit, reserve)
        self._adopt(budget)
        change = Change(
            Cause.ADJUST, limit=operation.limit - budget.limit, conclusion_reserve=reserve - budget.conclusion_reserve
        )
        if not change.limit and not change.conclusion_reserve:
            return copy(budget)
        budget.limit, budget.conclusion_reserve = operation.limit, reserve
        passed = budget.passed_now()
        if passed > budget.passed_percent:
            self._passed.add(budget.id)
        budget.passed_percent = passed
        self._touch(budget)
        self._record(budget, change)
        if change.limit > 0 or change.conclusion_reserve < 0:
            self._freed.add(budget.id)
        return copy(budget)

    # Charges

    def _charge(self, charge_id: str) -> Charge:
        if known := self.charges.get(charge_id):
            return known
        raise ServiceError(ErrorReason.CHARGE_NOT_FOUND, f"no charge {charge_id!r}", metadata={"charge_id": charge_id})

    def _reserve_in_turn(self, reserves: Iterable[Reserve]) -> list[Charge | ServiceError]:
        waiting: set[str] = set()
        results: list[Charge | ServiceError] = []
        for operation in reserves:
            try:
                results.append(self._reserve(operation, operation.yields_to | waiting))
            except TransientDenial as denial:
                waiting.add(denial.level)
                results.append(denial)
            except ServiceError as error:
                results.append(error)
        return results

    def _reserve(self, operation: Reserve, yields_to: AbstractSet[str]) -> Charge:
        if known := self.charges.get(operation.charge_id):
            return self._reserve_again(known, operation)
        ask = operation.ask
        path = self._path(self._budget(operation.budget_id))
        admit(path, ask, self.now)
        for budget in path:
            if budget.id in yields_to:
                raise held_by_others(budget, ask, f"others wait for room in budget {budget.id!r}")
        self._take_rate(operation, ask.tokens, yields_to)
        self._adopt(path[-1])  # a tenant's, if any of them is new
        charge = Charge(
            id=operation.charge_id,
            budget_id=operation.budget_id,
            model_id=operation.model_id,
            tier=operation.tier,
            price=operation.price,
            is_conclusion=operation.is_conclusion,
            max_input_tokens=operation.max_input_tokens,
            max_output_tokens=operation.max_output_tokens,
            reserved=ask.amount,
            state=ChargeState.DISPATCHED if operation.dispatch else ChargeState.RESERVED,
            create_time=self.now,
            expire_time=self.now + operation.lease,
        )
        self._post(charge, charges.hold(charge), path)
        self.charges[charge.id] = charge
        self.new_charges.add(charge.id)
        return charge

    def _reserve_again(self, known: Charge, operation: Reserve) -> Charge:
        known = self._expired(known)
        if not known.state.is_open:
            raise charges.wrong_state(known, "be reserved again: take another id")
        same = (known.budget_id, known.model_id, known.tier, known.is_conclusion) == (
            operation.budget_id,
            operation.model_id,
            operation.tier,
            operation.is_conclusion,
        ) and (known.max_input_tokens, known.max_output_tokens) == (
            operation.max_input_tokens,
            operation.max_output_tokens,
        )
        if not same:
            raise ServiceError(
                ErrorReason.BUDGET_CONFLICT,
                f"charge {known.id!r} exists with other content",
                metadata={"charge_id": known.id},
            )
        return self._take(known, charges.dispatch(known)) if operation.dispatch else known

    def _release(self, charge_id: str) -> Charge:
        known = self.charges.get(charge_id)
        if known is None:
            self.charges[charge_id] = charges.released_unseen(charge_id, self.now)
            self.new_charges.add(charge_id)
            return self.charges[charge_id]
        known = self._expired(known)
        return self._take(known, charges.release(known, self.now))

    def _expired(self, charge: Charge) -> Charge:
        return self._take(charge, charges.expire(charge, self.now))

    def _take(self, before: Charge, step: Step) -> Charge:
        after, change = step
        if after is before:
            return before
        if change is not None:
            self._post(after, change, self._path(self.budgets[after.budget_id]))
            self._give_rate_back(before, after)
        self.charges[after.id] = after
        if after.id not in self.new_charges:
            self.changed_charges.add(after.id)
        return after

    # Rates of models

    def _take_rate(self, operation: Reserve, tokens: int, yields_to: AbstractSet[str]) -> None:
        found = self._quotas.find(operation.model_id)
        if found is None:
            return
        model_id, quota = found
        window = self.windows.get(model_id) or RateWindow(model_id)
        if window.level in yields_to:
            raise window.others_wait()
        window.take(quota, tokens, self.now)
        if model_id not in self.windows:
            self.windows[model_id] = window
            self.new_windows.add(model_id)
        self.changed_windows.add(model_id)

    def _give_rate_back(self, before: Charge, after: Charge) -> None:
        """A call that was never sent counts for nothing, one that was for what it used."""
        found = self._quotas.find(after.model_id)
        window = found and self.windows.get(found[0])
        if not window or not before.state.is_open:
            return
        if after.state in (ChargeState.RELEASED, ChargeState.EXPIRED):
            window.give_back(after.create_time, 1, after.reserved_tokens)
        elif after.state is ChargeState.SETTLED:
            window.give_back(after.create_time, 0, after.reserved_tokens - after.usage.total)
        else:
            return
        self.changed_windows.add(window.model_id)
        self._freed.add(window.level)

    # The ledger

    def _path(self, budget: Budget) -> list[Budget]:
        path = [budget]
        while budget.parent_id:
            budget = self.budgets[budget.parent_id]
            path.append(budget)
        return path

    def _post(self, charge: Charge, change: Change, path: list[Budget]) -> None:
        """Records a change and applies it at every level, or raises AMOUNT_OVERFLOW and does neither."""
        for budget in path:
            budget.check(change)
        for budget in path:
            budget.apply(change)
            if change.held + change.spent < 0 or change.held_tokens < 0:
                self._freed.add(budget.id)
            if (percent := budget.passed_now()) > budget.passed_percent:
                budget.passed_percent = percent
                self._passed.add(budget.id)
            self._touch(budget)
        self._record(path[0], change, charge.id, charge.model_id)

    def _touch(self, budget: Budget) -> None:
        if budget.id not in self.new_budgets:
            self.changed_budgets.add(budget.id)

    def _record(self, budget: Budget, change: Change, charge_id: str = "", model_id: str = "") -> None:
        entry = Entry(self.now, budget.id, budget.tenant, budget.tool, change, charge_id, model_id)
        self.entries.append(entry)
