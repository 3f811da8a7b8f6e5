"""The ledger's reading side: each function runs in one read-only transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import CTE, Connection, RowMapping, func, select, text

from budget_svc import tables
from budget_svc.budgets import Budget
from budget_svc.ledger import Cause, Entry
from budget_svc.proof import OwnSums, Sums
from budget_svc.rows import budget_from, entry_from
from svc_common.times import DAY
from svc_common.tokens import TokenUsage

_SPENDING = (Cause.SETTLE, Cause.CHARGE_IN_FULL, Cause.CORRECT, Cause.FOLD)
_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


def budget(connection: Connection, budget_id: str) -> Budget | None:
    row = connection.execute(select(tables.budgets).where(tables.budgets.c.id == budget_id)).first()
    return budget_from(row) if row else None


def passed_budgets(connection: Connection, budget_id: str) -> list[Budget]:
    """The budget and those under it that have passed a threshold, oldest first."""
    tree = _tree(budget_id)
    query = (
        select(tables.budgets).join(tree, tree.c.id == tables.budgets.c.id).where(tables.budgets.c.passed_percent > 0)
    )
    rows = connection.execute(query.order_by(tables.budgets.c.create_time, tables.budgets.c.id))
    return [budget_from(row) for row in rows]


def entries(connection: Connection, budget_id: str, after: int, most: int) -> list[Entry]:
    """Entries of a budget and those under it, or of all for "", in order."""
    columns = tables.ledger.c
    query = select(tables.ledger).where(columns.sequence > after).order_by(columns.sequence).limit(most)
    if budget_id:
        query = query.where(columns.budget_id.in_(select(_tree(budget_id).c.id)))
    return [entry_from(row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one tenant used of one model by one tool on one day; `day` counts days since the epoch (UTC)."""

    tenant: str
    model_id: str
    tool: str
    day: int
    charges: int
    tokens: TokenUsage
    cost: int


def usage(connection: Connection, tenant: str, start: int, end: int) -> list[Usage]:
    """Spending recorded from `start` to before `end` (epoch microseconds), of one tenant or of all for ""."""
    columns = tables.ledger.c
    day = (columns.time // DAY).label("day")
    key = (columns.tenant, columns.model_id, columns.tool, day)
    sums = [func.sum(columns[name]).label(name) for name in ("charges", "spent", *_TOKENS)]
    query = select(*key, *sums).where(columns.cause.in_(_SPENDING), columns.time >= start, columns.time < end)
    if tenant:
        query = query.where(columns.tenant == tenant)
    return [
        Usage(
            tenant=row["tenant"],
            model_id=row["model_id"],
            tool=row["tool"],
            day=int(row["day"]),
            charges=int(row["charges"]),
            tokens=TokenUsage(*(int(row[name]) for name in _TOKENS)),
            cost=int(row["spent"]),
        )
        for row in connection.execute(query.group_by(*key).order_by(*key)).mappings()
    ]


def proof(connection: Connection) -> tuple[dict[str, Budget], dict[str, OwnSums]]:
    """Every budget, and what ledger and open charges say of it, as of one moment."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    budgets = {row.id: budget_from(row) for row in connection.execute(select(tables.budgets))}
    return budgets, _own_sums(connection)


def _own_sums(connection: Connection) -> dict[str, OwnSums]:
    columns, charges = tables.ledger.c, tables.charges.c
    names = ("spent", "held", "held_tokens", *_TOKENS, "charges", "limit_amount", "conclusion_reserve")
    sums = [func.sum(columns[name]).label(name) for name in names]
    query = select(columns.budget_id, func.count().label("entries"), *sums).group_by(columns.budget_id)
    opened = (
        select(
            charges.budget_id,
            func.sum(charges.reserved).label("amount"),
            func.sum(charges.max_input_tokens + charges.max_output_tokens).label("tokens"),
        )
        .where(charges.end_time == 0)
        .group_by(charges.budget_id)
    )
    own = {row["budget_id"]: _own(row) for row in connection.execute(query).mappings()}
    for row in connection.execute(opened):
        entries = own.get(row.budget_id, OwnSums())
        own[row.budget_id] = replace(entries, open_amount=int(row.amount), open_tokens=int(row.tokens))
    return own


def _own(row: RowMapping) -> OwnSums:
    sums = Sums(
        **{name: int(row[name]) for name in ("spent", "held", "held_tokens", *_TOKENS)},
        charge_count=int(row["charges"]),
    )
    return OwnSums(int(row["entries"]), int(row["limit_amount"]), int(row["conclusion_reserve"]), sums)


def lapsed_charges(connection: Connection, now: int, most: int) -> list[str]:
    """Ids of open charges whose lease has ended, longest ago first."""
    columns = tables.charges.c
    query = select(columns.id).where(columns.end_time == 0, columns.expire_time <= now)
    return list(connection.scalars(query.order_by(columns.expire_time).limit(most)))


def _tree(budget_id: str) -> CTE:
    """Ids of a budget and all under it."""
    columns = tables.budgets.c
    top = select(columns.id).where(columns.id == budget_id).cte("tree", recursive=True)
    return top.union_all(select(columns.id).where(columns.parent_id == top.c.id))
