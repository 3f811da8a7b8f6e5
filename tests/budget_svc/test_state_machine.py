"""No interleaving of operations, expiries, crashes and folding makes the ledger differ from a simple model of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum, auto
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete

from budget_svc import queries, retention, tables
from budget_svc.book import Policy
from budget_svc.budgets import Budget, NewBudget
from budget_svc.charges import Charge
from budget_svc.operations import (
    AdjustBudget,
    CreateBudgets,
    Dispatch,
    Expire,
    Operation,
    Release,
    Renew,
    Reserve,
    Settle,
)
from budget_svc.prices import Price, Rates
from budget_svc.proof import differences
from budget_svc.rates import Quotas
from budget_svc.server import MIGRATIONS
from budget_svc.store import LedgerStore
from budget_svc.tenants import Period, Tenants, TenantTerms
from svc_common.errors import ErrorReason, ServiceError
from svc_common.store import Database, migrate, open_engine
from svc_common.times import MICROS
from svc_common.tokens import TokenUsage
from tests.budget_svc.house import ManualClock
from tests.budget_svc.model import Model, ModelBudget

PENNY = Price(Rates(1, 1, 1, 1))
TENANT = "tenant/acme/all"
POLICY = Policy(
    Tenants(TenantTerms(Period.NONE, limit=150, conclusion_reserve=10, token_quota=140), {}), Quotas({}, str)
)
RETENTION = 20 * MICROS

budget_ids = st.sampled_from(["b0", "b0", "b1", "b2", "b3"])
amounts = st.integers(2, 60)
leases = st.sampled_from([5 * MICROS, 20 * MICROS])
flags = st.booleans()
# Which charge: one of those named before, counted from the newest, or one that nobody has named.
UNSEEN = -1
charges = st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5, UNSEEN])


class Then(Enum):
    """What comes after an operation was asked for: more of the same batch, its commit, or a crash around that."""

    MORE = auto()
    COMMIT = auto()
    CRASH_BEFORE_COMMIT = auto()
    CRASH_AFTER_COMMIT = auto()


thens = st.sampled_from([*[Then.MORE] * 4, *[Then.COMMIT] * 4, Then.CRASH_BEFORE_COMMIT, Then.CRASH_AFTER_COMMIT])


class Lost(Exception):
    """What a crash before the commit looks like from inside."""


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        with database.engine.begin() as connection:
            for table in tables.metadata.sorted_tables:
                connection.execute(delete(table))
        self.clock = ManualClock()
        self.store = LedgerStore(database, POLICY, self.clock, lambda news: None)
        self.model = Model(self.clock.time)
        self.charge_ids: list[str] = []
        self.batch: list[Operation] = []

    @initialize()
    def a_request_and_a_job(self) -> None:
        self.create("b0", "", 120, 10, 0, 0)
        self.create("b1", "b0", 100, 5, 0, 0)

    @rule(
        budget=budget_ids,
        parent=budget_ids | st.just(""),
        limit=st.integers(0, 120),
        reserve=st.integers(0, 20),
        quota=st.just(0) | st.integers(30, 120),
        seconds=st.just(0) | st.integers(10, 100),
    )
    def create(self, budget: str, parent: str, limit: int, reserve: int, quota: int, seconds: int) -> None:
        known = self.model.budgets
        if budget in known or (parent and parent not in known):
            return
        reserve = min(reserve, limit)
        deadline = self.clock.time + seconds * MICROS if seconds else 0
        tenant = "" if parent else "acme"
        new = NewBudget(budget, limit, parent, tenant, "", reserve, deadline, quota)
        for _ in range(2):
            assert isinstance(self.do(CreateBudgets((new,)))[0], list)
        known.setdefault(TENANT, ModelBudget("", 150, 10, 140, 0))
        above = known[parent or TENANT]
        known[budget] = ModelBudget(parent or TENANT, limit, reserve, quota, deadline or above.deadline)

    @rule(again=st.sampled_from([UNSEEN] * 7 + [0, 1]), budget=budget_ids, amount=amounts, lease=leases, then=thens)
    def reserve(self, again: int, budget: str, amount: int, lease: int, then: Then) -> None:
        self.ask(self.reservation(again, budget, amount, lease), then)

    @rule(again=st.sampled_from([UNSEEN] * 7 + [0, 1]), budget=budget_ids, amount=amounts, flag=flags, then=thens)
    def reserve_otherwise(self, again: int, budget: str, amount: int, flag: bool, then: Then) -> None:
        operation = self.reservation(again, budget, amount, 20 * MICROS)
        self.ask(replace(operation, is_conclusion=flag, dispatch=not flag), then)

    def reservation(self, again: int, budget: str, amount: int, lease: int) -> Reserve:
        charge_id = self.charge(again)
        if charge_id not in self.charge_ids:
            self.charge_ids.insert(0, charge_id)
        return Reserve(charge_id, budget, "penny", "", PENNY, amount - 1, 1, lease)

    @rule(which=charges, usage=st.none() | st.integers(0, 80), then=thens)
    def settle(self, which: int, usage: int | None, then: Then) -> None:
        self.ask(Settle(self.charge(which), None if usage is None else TokenUsage(usage)), then)

    @rule(which=charges, then=thens)
    def dispatch(self, which: int, then: Then) -> None:
        self.ask(Dispatch(self.charge(which)), then)

    @rule(which=charges, then=thens)
    def release(self, which: int, then: Then) -> None:
        charge_id = self.charge(which)
        if charge_id not in self.charge_ids:
            self.charge_ids.insert(0, charge_id)
        self.ask(Release(charge_id), then)

    @rule(which=charges, lease=leases, then=thens)
    def renew(self, which: int, lease: int, then: Then) -> None:
        self.ask(Renew(self.charge(which), lease), then)

    def charge(self, which: int) -> str:
        known = self.charge_ids
        return f"c{len(known)}" if which == UNSEEN or not known else known[which % len(known)]

    def ask(self, operation: Operation, then: Then) -> None:
        self.batch.append(operation)
        if then is Then.MORE:
            return
        batch, self.batch = self.batch, []
        if then is Then.CRASH_BEFORE_COMMIT:
            with pytest.raises(Lost):
                self.database.write(lambda connection: self.crash(connection, batch))
        elif then is Then.CRASH_AFTER_COMMIT:
            # The callers learn nothing and ask again.
            self.do(*batch)
            for each in batch:
                self.expected(each)
            self.database.engine.dispose()
            self.store = LedgerStore(self.database, POLICY, self.clock, lambda news: None)
            self.commit(batch)
        else:
            self.commit(batch)

    def commit(self, batch: list[Operation]) -> None:
        for operation, result in zip(batch, self.do(*batch), strict=True):
            assert _told(result) == self.expected(operation), operation

    def crash(self, connection: Connection, batch: list[Operation]) -> None:
        self.store.apply(connection, batch)
        raise Lost

    @rule(seconds=st.sampled_from([1, 5, 5, 15, 30]))
    def time_passes(self, seconds: int) -> None:
        self.clock.pass_seconds(seconds)
        self.model.now = self.clock.time

    @rule()
    def sweep(self) -> None:
        lapsed = self.database.read_here(lambda connection: queries.lapsed_charges(connection, self.clock(), 100))
        self.do(*(Expire(charge_id) for charge_id in lapsed))
        self.model.sweep()

    @rule(budget=budget_ids, limit=st.integers(0, 150), reserve=st.none() | st.integers(0, 20))
    def adjust(self, budget: str, limit: int, reserve: int | None) -> None:
        if budget not in self.model.budgets:
            return
        reserve = None if reserve is None else min(reserve, limit)
        assert isinstance(self.do(AdjustBudget(budget, limit, reserve))[0], Budget)
        self.model.adjust(budget, limit, reserve)

    @rule()
    def fold(self) -> None:
        before = self.clock.time - RETENTION
        self.database.write(lambda connection: retention.fold(connection, before, 100))
        self.model.fold(before)

    @invariant()
    def balances_are_those_of_the_model_and_proved_by_the_ledger(self) -> None:
        budgets, own = self.database.read_here(queries.proof)
        assert differences(budgets, own) == []
        assert set(budgets) == set(self.model.budgets)
        for budget_id, budget in budgets.items():
            spent, held = self.model.spent(budget_id), self.model.held(budget_id)
            assert (budget.spent, budget.held, budget.charge_count) == (spent, held, self.model.count(budget_id))
            assert (budget.tokens.total, budget.held_tokens) == (spent, held)

    @invariant()
    def nothing_is_over_its_limit_but_what_is_excused(self) -> None:
        for budget_id, budget in self.model.budgets.items():
            assert self.model.spent(budget_id) + self.model.held(budget_id) <= budget.limit + budget.excused

    def do(self, *operations: Operation) -> list[Any]:
        return list(self.store.execute(operations)) if operations else []

    def expected(self, operation: Operation) -> object:
        match operation:
            case Reserve():
                return self.model.reserve(
                    operation.charge_id,
                    operation.budget_id,
                    operation.max_input_tokens + 1,
                    operation.lease,
                    operation.is_conclusion,
                    operation.dispatch,
                )
            case Dispatch(charge_id):
                return self.model.dispatch(charge_id)
            case Settle(charge_id, usage):
                return self.model.settle(charge_id, None if usage is None else usage.total)
            case Release(charge_id):
                return self.model.release(charge_id)
            case Renew(charge_id, lease):
                return self.model.renew(charge_id, lease)
        raise AssertionError(operation)


def _told(result: object) -> object:
    if isinstance(result, ServiceError):
        return ErrorReason(result.reason)
    assert isinstance(result, Charge)
    return result.state


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(open_engine(database_url))
    migrate(database.engine, MIGRATIONS)
    yield database
    database.close()


def test_the_ledger_behaves_as_its_model(database: Database) -> None:
    # A transaction on PostgreSQL costs more round trips; the logic is the same. DBP_EXAMPLES asks for a longer run.
    count = int(os.environ.get("DBP_EXAMPLES", 0)) or (15 if database.is_sqlite else 4)
    run_state_machine_as_test(
        lambda: LedgerMachine(database),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=count, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
