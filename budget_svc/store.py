"""The ledger's writing side: one batch of operations is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from budget_svc import tables
from budget_svc.book import Book, Outcome, Policy
from budget_svc.budgets import Budget
from budget_svc.charges import Charge
from budget_svc.operations import AdjustBudget, CreateBudgets, Operation, Reserve, ReserveInTurn
from budget_svc.rates import RateWindow
from budget_svc.rows import (
    balances_to_row,
    budget_from,
    budget_to_row,
    charge_from,
    charge_to_row,
    entry_to_row,
    outcome_to_row,
)
from svc_common.errors import ServiceError
from svc_common.store import Database
from svc_common.times import Clock

# Two replicas may insert the same new row at once; the one that loses finds the other's row when it looks again.
_TRIES = 5


class LedgerStore:
    """Applies operations for a `GroupCommitter`. Several replicas may share one PostgreSQL database."""

    def __init__(self, database: Database, policy: Policy, clock: Clock) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock

    def execute(self, operations: Sequence[Operation]) -> list[Outcome | Exception]:
        """Applies the operations in order, in one transaction. A refused one gets its ServiceError and changes nothing."""
        for attempt in range(_TRIES):
            try:
                return self._database.write(lambda connection: self._run(connection, operations))
            except IntegrityError:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    def _run(self, connection: Connection, operations: Sequence[Operation]) -> list[Outcome | Exception]:
        book = self._load(connection, operations)
        outcomes = [_attempt(book, operation) for operation in operations]
        _save(connection, book)
        return outcomes

    def _load(self, connection: Connection, operations: Sequence[Operation]) -> Book:
        now = self._clock()
        # Rows are locked in one order everywhere - charges, budgets, rates, each by id - so that replicas never deadlock.
        charges = _lock_charges(connection, {charge_id for each in operations for charge_id in _charge_ids(each)})
        budget_ids = {charge.budget_id for charge in charges}
        model_ids = {charge.model_id for charge in charges}
        for operation in operations:
            budget_ids.update(self._budget_ids(operation, now))
            model_ids.update(reserve.model_id for reserve in _reserves(operation))
        budgets = _lock_paths(connection, budget_ids - {""})
        rated = {found[0] for model_id in model_ids if (found := self._policy.quotas.find(model_id))}
        return Book(now, self._policy, budgets, charges, _lock_rates(connection, rated))

    def _budget_ids(self, operation: Operation, now: int) -> Iterable[str]:
        if isinstance(operation, CreateBudgets):
            for new in operation.budgets:
                yield new.id
                yield new.parent_id or self._policy.tenants.budget_id(new.tenant, now)
        elif isinstance(operation, AdjustBudget):
            yield operation.budget_id
        for reserve in _reserves(operation):
            yield reserve.budget_id


def _reserves(operation: Operation) -> tuple[Reserve, ...]:
    match operation:
        case Reserve():
            return (operation,)
        case ReserveInTurn(reserves):
            return reserves
    return ()


def _charge_ids(operation: Operation) -> Iterable[str]:
    match operation:
        case CreateBudgets() | AdjustBudget():
            return ()
        case ReserveInTurn(reserves):
            return (reserve.charge_id for reserve in reserves)
    return (operation.charge_id,)


def _attempt(book: Book, operation: Operation) -> Outcome | Exception:
    try:
        return book.apply(operation)
    except ServiceError as error:
        return error


def _lock_charges(connection: Connection, ids: set[str]) -> list[Charge]:
    if not ids:
        return []
    query = select(tables.charges).where(tables.charges.c.id.in_(sorted(ids))).order_by(tables.charges.c.id)
    return [charge_from(row) for row in connection.execute(query.with_for_update()).mappings()]


def _lock_paths(connection: Connection, ids: set[str]) -> list[Budget]:
    """The budgets with these ids and all above them, locked until the transaction ends."""
    if not ids:
        return []
    columns = tables.budgets.c
    path = select(columns.id, columns.parent_id).where(columns.id.in_(sorted(ids))).cte("path", recursive=True)
    path = path.union(select(columns.id, columns.parent_id).where(columns.id == path.c.parent_id))
    query = select(tables.budgets).where(columns.id.in_(select(path.c.id))).order_by(columns.id)
    return [budget_from(row) for row in connection.execute(query.with_for_update(of=tables.budgets)).mappings()]


def _lock_rates(connection: Connection, model_ids: set[str]) -> list[RateWindow]:
    if not model_ids:
        return []
    columns = tables.rates.c
    query = select(tables.rates).where(columns.model_id.in_(sorted(model_ids))).order_by(columns.model_id)
    return [RateWindow.decoded(row.model_id, row.seconds) for row in connection.execute(query.with_for_update())]


def _save(connection: Connection, book: Book) -> None:
    if book.new_budgets:
        connection.execute(
            insert(tables.budgets), [budget_to_row(book.new_budgets[key]) for key in sorted(book.new_budgets)]
        )
    if book.changed_budgets:
        changed = sorted(book.changed_budgets)
        connection.execute(
            update(tables.budgets).where(tables.budgets.c.id == bindparam("key")),
            [{"key": key, **balances_to_row(book.budgets[key])} for key in changed],
        )
    if book.new_charges:
        connection.execute(
            insert(tables.charges), [charge_to_row(book.charges[key]) for key in sorted(book.new_charges)]
        )
    if book.changed_charges:
        connection.execute(
            update(tables.charges).where(tables.charges.c.id == bindparam("key")),
            [{"key": key, **outcome_to_row(book.charges[key])} for key in sorted(book.changed_charges)],
        )
    if book.entries:
        connection.execute(insert(tables.ledger), [entry_to_row(entry) for entry in book.entries])
    _save_rates(connection, book)


def _save_rates(connection: Connection, book: Book) -> None:
    if book.new_windows:
        connection.execute(
            insert(tables.rates),
            [{"model_id": key, "seconds": book.windows[key].encoded()} for key in sorted(book.new_windows)],
        )
    if changed := sorted(book.changed_windows - book.new_windows):
        connection.execute(
            update(tables.rates).where(tables.rates.c.model_id == bindparam("key")),
            [{"key": key, "seconds": book.windows[key].encoded()} for key in changed],
        )
