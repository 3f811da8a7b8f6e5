"""What a batch costs does not grow with the ledger."""

from __future__ import annotations

import pytest

from budget_svc.ledger_rows import LedgerRows
from budget_svc.server import MIGRATIONS
from svc_common.store import migrate, open_engine


@pytest.mark.parametrize("statement", ["_paths", "_charges"])
def test_postgresql_reads_by_index_even_before_it_knows_how_many_rows_there_are(
    postgres_url: str, statement: str
) -> None:
    rows = LedgerRows(is_sqlite=False)
    engine = open_engine(postgres_url)
    migrate(engine, MIGRATIONS)
    with engine.begin() as connection:
        rows.paths_and_charges(connection, ["a"], ["b"])
        cursor = connection.connection.cursor()
        cursor.execute(f"EXPLAIN {getattr(rows, statement)}", {"ids": ["a"], "charge_ids": ["b"]})
        plan = "\n".join(line for [line] in cursor.fetchall())
    engine.dispose()
    assert "Index" in plan
    assert "Seq Scan" not in plan, plan
