"""The ledger's writing side: one batch of operations is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from budget_svc import tables
from budget_svc.book import Book, Outcome
from budget_svc.budgets import Budget
from budget_svc.charges import Charge
from budget_svc.operations import AdjustBudget, CreateBudgets, Operation, Reserve
from budget_svc.rows import (
    balances_to_row,
    budget_from,
    budget_to_row,
    charge_from,
    charge_to_row,
    entry_to_row,
    outcome_to_row,
)
from budget_svc.tenants import Tenants
from svc_common.errors import ServiceError
from svc_common.store import Database
from svc_common.times import Clock

# Two replicas may insert the same new row at once; the one that loses finds the other's row when it looks again.
_TRIES = 5


class LedgerStore:
    """Applies operations for a `GroupCommitter`. Several replicas may share one PostgreSQL database."""

    def __init__(self, database: Database, tenants: Tenants, clock: Clock) -> None:
        self._database = database
        self._tenants = tenants
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
        # Rows are locked in one order everywhere - charges, then budgets, each by id - so that replicas never deadlock.
        charges = _lock_charges(connection, {charge_id for each in operations for charge_id in _charge_ids(each)})
        budget_ids = {charge.budget_id for charge in charges}
        for operation in operations:
            budget_ids.update(self._budget_ids(operation, now))
        return Book(now, self._tenants, _lock_paths(connection, budget_ids - {""}), charges)

    def _budget_ids(self, operation: Operation, now: int) -> Iterable[str]:
        match operation:
            case CreateBudgets(budgets):
                for new in budgets:
                    yield new.id
                    yield new.parent_id or self._tenants.budget_id(new.tenant, now)
            case Reserve() | AdjustBudget():
                yield operation.budget_id


def _charge_ids(operation: Operation) -> tuple[str, ...]:
    return () if isinstance(operation, CreateBudgets | AdjustBudget) else (operation.charge_id,)


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


def read_budget(connection: Connection, budget_id: str) -> Budget | None:
    row = connection.execute(select(tables.budgets).where(tables.budgets.c.id == budget_id)).mappings().first()
    return budget_from(row) if row else None


def lapsed_charges(connection: Connection, now: int, most: int) -> list[str]:
    """Ids of open charges whose lease has ended, longest ago first."""
    columns = tables.charges.c
    query = select(columns.id).where(columns.end_time == 0, columns.expire_time <= now)
    return list(connection.scalars(query.order_by(columns.expire_time).limit(most)))
