"""Reading and writing a book's rows, each sort of them in one statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from budget_svc import tables
from budget_svc.book import Book
from budget_svc.budgets import Budget
from budget_svc.charges import Charge
from budget_svc.rates import RateWindow
from budget_svc.rows import (
    BALANCE_COLUMNS,
    BUDGET_COLUMNS,
    CHARGE_COLUMNS,
    ENTRY_COLUMNS,
    OUTCOME_COLUMNS,
    balances_to_row,
    budget_from,
    budget_to_row,
    charge_from,
    charge_to_row,
    entry_to_row,
    outcome_to_row,
)
from svc_common.bulk import BulkSql


class LedgerRows:
    """What is read here stays locked until the transaction ends."""

    def __init__(self, *, is_sqlite: bool) -> None:
        sql = self._sql = BulkSql(is_sqlite=is_sqlite)
        # Every statement of a batch goes by an index: what the planner makes of tables that grow, and of a recursion whose size it
        # has to guess, is a scan of all of them.
        off = ", ".join(f"set_config('enable_{way}', 'off', true)" for way in ("seqscan", "hashjoin", "mergejoin"))
        self._by_index: tuple[str, dict[str, Any]] | None = None if is_sqlite else (f"SELECT {off}", {})
        self._charges = sql.driver_sql(
            f"SELECT {', '.join(CHARGE_COLUMNS)} FROM charges WHERE {sql.among('id', 'ids')} ORDER BY id{sql.for_update()}"
        )
        self._paths = sql.driver_sql(
            "WITH RECURSIVE wanted(id) AS ("
            f"SELECT value FROM {sql.rows_of('ids')}"
            f" UNION SELECT budget_id FROM charges WHERE {sql.among('id', 'charge_ids')}"
            "), path(id, parent_id) AS ("
            "SELECT b.id, b.parent_id FROM wanted JOIN budgets b ON b.id = wanted.id"
            " UNION SELECT b.id, b.parent_id FROM path JOIN budgets b ON b.id = path.parent_id)"
            f" SELECT {', '.join(BUDGET_COLUMNS)} FROM budgets WHERE id IN (SELECT id FROM path)"
            f" ORDER BY id{sql.for_update()}"
        )
        self._rates = sql.driver_sql(
            f"SELECT model_id, seconds FROM rates WHERE {sql.among('model_id', 'ids')} ORDER BY model_id{sql.for_update()}"
        )
        self._insert_budgets = sql.insert(tables.budgets, BUDGET_COLUMNS)
        self._update_budgets = sql.update(tables.budgets, "id", BALANCE_COLUMNS)
        self._insert_charges = sql.insert(tables.charges, CHARGE_COLUMNS)
        self._update_charges = sql.update(tables.charges, "id", OUTCOME_COLUMNS)
        self._insert_entries = sql.insert(tables.ledger, ENTRY_COLUMNS)
        self._insert_rates = sql.insert(tables.rates, ("model_id", "seconds"))
        self._update_rates = sql.update(tables.rates, "model_id", ("seconds",))

    def paths_and_charges(
        self, connection: Connection, ids: Iterable[str], charge_ids: Iterable[str]
    ) -> tuple[list[Budget], list[Charge]]:
        """The budgets with these ids or with these charges, and all above them; then the charges."""
        charges = {"ids": self._sql.list_of(charge_ids)}
        paths = {"ids": self._sql.list_of(ids), "charge_ids": charges["ids"]}
        _, budgets, known = self._sql.read_all(
            connection, [self._by_index, (self._paths, paths), (self._charges, charges)]
        )
        return [budget_from(row) for row in budgets], [charge_from(row) for row in known]

    def rates(self, connection: Connection, model_ids: Iterable[str]) -> list[RateWindow]:
        parameters = {"ids": self._sql.list_of(model_ids)}
        return [RateWindow.decoded(*row) for row in self._sql.read(connection, self._rates, parameters)]

    def save(self, connection: Connection, book: Book) -> None:
        """Writes what the book's operations changed, in an order of ids that is the same in every replica."""
        write = self._sql.write
        # Waited for before the commit: a row that another replica was first with must be told from all else that may fail.
        with self._sql.together(connection):
            new, changed = sorted(book.new_budgets), sorted(book.changed_budgets)
            write(connection, self._insert_budgets, [budget_to_row(book.budgets[key]) for key in new])
            write(connection, self._update_budgets, [(key, *balances_to_row(book.budgets[key])) for key in changed])
            new, changed = sorted(book.new_charges), sorted(book.changed_charges)
            write(connection, self._insert_charges, [charge_to_row(book.charges[key]) for key in new])
            write(connection, self._update_charges, [(key, *outcome_to_row(book.charges[key])) for key in changed])
            write(connection, self._insert_entries, [entry_to_row(entry) for entry in book.entries])
            new, changed = sorted(book.new_windows), sorted(book.changed_windows - book.new_windows)
            write(connection, self._insert_rates, [(key, book.windows[key].encoded()) for key in new])
            write(connection, self._update_rates, [(key, book.windows[key].encoded()) for key in changed])
