"""Budgets, charges, the ledger and the rates of models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def tokens() -> list[sa.Column[int]]:
    return [number(f"{sort}_tokens") for sort in ("input", "output", "cache_read", "cache_write")]


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.Text, primary_key=True),
        text("parent_id"),
        text("tenant"),
        text("tool"),
        text("terms"),
        number("create_time"),
        number("deadline"),
        number("token_quota"),
        number("limit_amount"),
        number("conclusion_reserve"),
        number("spent"),
        number("held"),
        *tokens(),
        number("held_tokens"),
        number("charge_count"),
        sa.Column("passed_percent", sa.SmallInteger, nullable=False),
    )
    op.create_index("budgets_parent", "budgets", ["parent_id"])
    op.create_table(
        "charges",
        sa.Column("id", sa.Text, primary_key=True),
        text("budget_id"),
        text("model_id"),
        text("tier"),
        text("price"),
        sa.Column("is_conclusion", sa.Boolean, nullable=False),
        number("max_input_tokens"),
        number("max_output_tokens"),
        number("reserved"),
        number("create_time"),
        sa.Column("state", sa.SmallInteger, nullable=False),
        number("expire_time"),
        number("end_time"),
        number("cost"),
        *tokens(),
        sa.Column("over_reserved", sa.Boolean, nullable=False),
    )
    for name, column, condition in (
        ("charges_open", "expire_time", sa.text("end_time = 0")),
        ("charges_ended", "end_time", sa.text("end_time > 0")),
    ):
        op.create_index(name, "charges", [column], sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "ledger",
        sa.Column(
            "sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True
        ),
        number("time"),
        text("budget_id"),
        text("tenant"),
        text("tool"),
        sa.Column("cause", sa.SmallInteger, nullable=False),
        text("charge_id"),
        text("model_id"),
        number("held"),
        number("spent"),
        number("held_tokens"),
        *tokens(),
        number("charges"),
        number("limit_amount"),
        number("conclusion_reserve"),
        sqlite_autoincrement=True,
    )
    op.create_index("ledger_budget", "ledger", ["budget_id", "sequence"])
    op.create_index("ledger_charge", "ledger", ["charge_id"])
    op.create_index("ledger_time", "ledger", ["time"])
    op.create_table("rates", sa.Column("model_id", sa.Text, primary_key=True), text("seconds"))
