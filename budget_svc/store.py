"""The ledger's writing side: one batch of operations is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection

from budget_svc.book import Book, News, Policy, Value
from budget_svc.ledger_rows import LedgerRows
from budget_svc.operations import AdjustBudget, CreateBudgets, Operation, Reserve, ReserveInTurn
from svc_common.errors import ServiceError
from svc_common.store import ROW_EXISTS, Database
from svc_common.times import Clock

# Two replicas may insert the same new row at once; the one that loses finds the other's row when it looks again.
_TRIES = 5


class _Overtaken(Exception):
    """Another replica reserved a charge of this id, under another budget, after the budgets to lock had been determined."""


class LedgerStore:
    """Applies operations for a `GroupCommitter`. Several replicas may share one PostgreSQL database.

    `on_commit` is called in the writing thread, after a commit that makes news and before its results are known.
    """

    def __init__(self, database: Database, policy: Policy, clock: Clock, on_commit: Callable[[News], None]) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock
        self._on_commit = on_commit
        self._rows = LedgerRows(is_sqlite=database.is_sqlite)

    def execute(self, operations: Sequence[Operation]) -> list[Value | ServiceError]:
        """Applies the operations in order, in one transaction. A refused one gets its ServiceError and changes nothing."""
        for attempt in range(_TRIES):
            try:
                results, news = self._database.write(
                    lambda connection: self.apply(connection, operations), pipelined=True
                )
            except (*ROW_EXISTS, _Overtaken):
                if attempt == _TRIES - 1:
                    raise
            else:
                if news:
                    self._on_commit(news)
                return results
        raise AssertionError("the last try returns or raises")

    def apply(self, connection: Connection, operations: Sequence[Operation]) -> tuple[list[Value | ServiceError], News]:
        """`execute` within a transaction of the caller's."""
        book = self._load(connection, operations)
        results = [_attempt(book, operation) for operation in operations]
        self._rows.save(connection, book)
        return results, book.news

    def _load(self, connection: Connection, operations: Sequence[Operation]) -> Book:
        now = self._clock()
        charge_ids = {charge_id for each in operations for charge_id in _charge_ids(each)}
        budget_ids = {budget_id for each in operations for budget_id in self._budget_ids(each, now)}
        # Rows are locked in one order everywhere - budgets, charges, rates, each by id - so that replicas never deadlock. Whoever
        # changes a charge has its budget, so what is read of charges after the budgets is what holds.
        budgets, charges = self._rows.paths_and_charges(connection, budget_ids, charge_ids)
        if {charge.budget_id for charge in charges}.difference({""}, (budget.id for budget in budgets)):
            raise _Overtaken
        model_ids = {charge.model_id for charge in charges}
        model_ids.update(reserve.model_id for each in operations for reserve in _reserves(each))
        rated = {found[0] for model_id in model_ids if (found := self._policy.quotas.find(model_id))}
        windows = self._rows.rates(connection, rated) if rated else []
        return Book(now, self._policy, budgets, charges, windows)

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


def _attempt(book: Book, operation: Operation) -> Value | ServiceError:
    try:
        return book.apply(operation)
    except ServiceError as error:
        return error
