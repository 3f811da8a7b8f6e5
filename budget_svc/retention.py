"""Retention: charges that ended long ago give way to daily totals in the ledger. No balance changes, and the proof still holds."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, or_, select

from budget_svc import tables
from budget_svc.ledger import Cause, Change, Entry
from budget_svc.rows import ENTRY_COLUMNS, entry_from, entry_to_row
from svc_common.times import DAY
from svc_common.tokens import NO_TOKENS


def fold(connection: Connection, ended_before: int, most: int) -> int:
    """Folds up to `most` charges that ended before that time; returns how many there were."""
    charges, ledger = tables.charges.c, tables.ledger.c
    # The lock keeps a late settle out: it finds the charge as it was or no more.
    oldest = select(charges.id, charges.budget_id).where(charges.end_time > 0, charges.end_time < ended_before)
    rows = connection.execute(oldest.order_by(charges.end_time).limit(most).with_for_update(skip_locked=True)).all()
    if not rows:
        return 0
    ids = [row.id for row in rows]
    budget_ids = {row.budget_id for row in rows}
    earlier_folds = (ledger.cause == Cause.FOLD) & ledger.budget_id.in_(budget_ids)
    folded = delete(tables.ledger).where(or_(ledger.charge_id.in_(ids), earlier_folds)).returning(tables.ledger)
    # What this transaction removed and no more: another replica may be folding the same totals.
    if totals := daily_totals(entry_from(row) for row in connection.execute(folded)):
        connection.execute(
            insert(tables.ledger), [dict(zip(ENTRY_COLUMNS, entry_to_row(total), strict=True)) for total in totals]
        )
    connection.execute(delete(tables.charges).where(charges.id.in_(ids)))
    return len(ids)


def daily_totals(entries: Iterable[Entry]) -> list[Entry]:
    """One entry per budget, model and day with what the entries of ended charges add up to; holds and their ends cancel out."""
    totals: dict[tuple[str, str, int], Entry] = {}
    for entry in entries:
        change = entry.change
        if not change.charges and not change.spent and change.tokens == NO_TOKENS:
            continue
        day = entry.time // DAY * DAY
        key = (entry.budget_id, entry.model_id, day)
        known = totals.get(key)
        so_far = known.change if known else Change(Cause.FOLD)
        summed = Change(
            Cause.FOLD,
            spent=so_far.spent + change.spent,
            tokens=so_far.tokens + change.tokens,
            charges=so_far.charges + change.charges,
        )
        totals[key] = Entry(day, entry.budget_id, entry.tenant, entry.tool, summed, model_id=entry.model_id)
    return [totals[key] for key in sorted(totals)]
