"""Jobs, their standing while unfinished, event logs and audit logs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Bytewise order on both stores.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def key(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, KEY, nullable=False, primary_key=primary_key)


def text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def small(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.SmallInteger, nullable=False)


def data(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def upgrade() -> None:
    has_parent = sa.text("parent_id <> ''")
    op.create_table(
        "jobs",
        key("id", primary_key=True),
        key("root_id"),
        key("parent_id"),
        key("tenant"),
        key("kind"),
        data("payload"),
        sa.Column("priority", sa.Integer, nullable=False),
        text("traceparent"),
        text("labels"),
        number("create_time"),
        number("not_before"),
        number("deadline"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        data("checkpoint"),
        small("state"),
        small("end_reason"),
        flag("is_partial"),
        data("result"),
        text("error_message"),
        sa.Column("attempt", sa.Integer, nullable=False),
        number("start_time"),
        number("end_time"),
        number("last_sequence"),
        number("fencing_token"),
        number("end_token"),
    )
    op.create_index("jobs_by_age", "jobs", ["create_time"])
    op.create_index("jobs_by_root", "jobs", ["root_id"], postgresql_where=has_parent, sqlite_where=has_parent)
    op.create_table(
        "live",
        key("id", primary_key=True),
        key("root_id"),
        key("parent_id"),
        key("lane"),
        number("create_time"),
        number("deadline"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("payload_bytes", sa.Integer, nullable=False),
        small("phase"),
        number("due_time"),
        sa.Column("attempt", sa.Integer, nullable=False),
        number("fencing_token"),
        number("closed_token"),
        number("report_number"),
        text("worker_id"),
        number("lease_expire_time"),
        number("start_time"),
        number("last_sequence"),
        flag("has_text"),
        key("claim_id"),
        sa.Column("checkpoint_bytes", sa.Integer, nullable=False),
        number("wake_time"),
        sqlite_with_rowid=False,
    )
    op.create_index("live_by_turn", "live", ["phase", "lane", "create_time"])
    op.create_index("live_by_wake_time", "live", ["wake_time"])
    op.create_index("live_by_parent", "live", ["parent_id"], postgresql_where=has_parent, sqlite_where=has_parent)
    has_claim = sa.text("claim_id <> ''")
    op.create_index("live_by_claim", "live", ["claim_id"], postgresql_where=has_claim, sqlite_where=has_claim)
    op.create_table(
        "events",
        key("root_id", primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        number("first_sequence"),
        number("time"),
        key("job_id"),
        small("type"),
        text("name"),
        data("data"),
        text("pieces"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "attempt_errors",
        key("job_id", primary_key=True),
        number("time"),
        sa.Column("attempt", sa.Integer, primary_key=True),
        small("reason"),
        text("message"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "stops",
        key("worker_id", primary_key=True),
        number("time"),
        key("job_id", primary_key=True),
        sa.Column("fencing_token", sa.BigInteger, primary_key=True),
        small("reason"),
        sqlite_with_rowid=False,
    )
    op.create_index("stops_by_time", "stops", ["time"])
    op.create_table("compactions", key("root_id", primary_key=True), sqlite_with_rowid=False)
    op.create_table(
        "audit",
        key("root_id", primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        number("time"),
        key("job_id"),
        text("record_json"),
        text("previous_hash"),
        text("hash"),
        text("append_id"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        # Every row of `live` is rewritten several times and soon deleted: room for its next version beside it, and early vacuum.
        op.execute(
            "ALTER TABLE live SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05,"
            " autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)"
        )
        op.execute("ALTER TABLE jobs SET (fillfactor = 70)")
