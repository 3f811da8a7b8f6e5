"""The tables of budget_svc."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, SmallInteger, Table, Text

metadata = MetaData()

# SQLite numbers rows itself only for a column of exactly this type.
_Sequence = BigInteger().with_variant(Integer(), "sqlite")


def _amount(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _tokens() -> list[Column[int]]:
    return [_amount(f"{sort}_tokens") for sort in ("input", "output", "cache_read", "cache_write")]


budgets = Table(
    "budgets",
    metadata,
    Column("id", Text, primary_key=True),
    _text("parent_id"),
    _text("tenant"),
    _text("tool"),
    _text("terms"),
    _amount("create_time"),
    _amount("deadline"),
    _amount("token_quota"),
    _amount("limit_amount"),
    _amount("conclusion_reserve"),
    _amount("spent"),
    _amount("held"),
    *_tokens(),
    _amount("held_tokens"),
    _amount("charge_count"),
    Column("passed_percent", SmallInteger, nullable=False),
    Index("budgets_parent", "parent_id"),
)

charges = Table(
    "charges",
    metadata,
    Column("id", Text, primary_key=True),
    _text("budget_id"),
    _text("model_id"),
    _text("tier"),
    _text("price"),
    Column("is_conclusion", Boolean, nullable=False),
    _amount("max_input_tokens"),
    _amount("max_output_tokens"),
    _amount("reserved"),
    _amount("create_time"),
    Column("state", SmallInteger, nullable=False),
    _amount("expire_time"),
    _amount("end_time"),
    _amount("cost"),
    *_tokens(),
    Column("over_reserved", Boolean, nullable=False),
)
# The sweeper looks only at charges whose lease can end; retention only at those that have ended.
Index(
    "charges_open",
    charges.c.expire_time,
    sqlite_where=charges.c.end_time == 0,
    postgresql_where=charges.c.end_time == 0,
)
Index("charges_ended", charges.c.end_time, sqlite_where=charges.c.end_time > 0, postgresql_where=charges.c.end_time > 0)

ledger = Table(
    "ledger",
    metadata,
    Column("sequence", _Sequence, primary_key=True, autoincrement=True),
    _amount("time"),
    _text("budget_id"),
    _text("tenant"),
    _text("tool"),
    Column("cause", SmallInteger, nullable=False),
    _text("charge_id"),
    _text("model_id"),
    _amount("held"),
    _amount("spent"),
    _amount("held_tokens"),
    *_tokens(),
    _amount("charges"),
    _amount("limit_amount"),
    _amount("conclusion_reserve"),
    Index("ledger_budget", "budget_id", "sequence"),
    Index("ledger_charge", "charge_id"),
    Index("ledger_time", "time"),
    # Sequences are never used again, also not after retention has removed the newest rows.
    sqlite_autoincrement=True,
)

# One row per model with a quota: what was granted of it in the last minute, and the lock under which replicas grant.
rates = Table("rates", metadata, Column("model_id", Text, primary_key=True), _text("seconds"))
