"""The tables, alike on SQLite and PostgreSQL.

`jobs` holds every job for good and is written when a job is created, checkpointed or ended. `live` holds the standing of unfinished
jobs only, so that what is searched and rewritten all the time stays small. No foreign keys: rows of hot parents would be locked.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)

metadata = MetaData()

# Bytewise order on both stores: lanes are searched by ranges of their names.
Key = Text().with_variant(Text(collation="C"), "postgresql")

jobs = Table(
    "jobs",
    metadata,
    Column("id", Key, primary_key=True),
    Column("root_id", Key, nullable=False),
    Column("parent_id", Key, nullable=False),
    Column("tenant", Key, nullable=False),
    Column("kind", Key, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("traceparent", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("deadline", BigInteger, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    # What follows is written when the job ends.
    Column("state", SmallInteger, nullable=False),
    Column("end_reason", SmallInteger, nullable=False),
    Column("is_partial", Boolean, nullable=False),
    Column("result", LargeBinary, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("fencing_token", BigInteger, nullable=False),
    Column("end_token", BigInteger, nullable=False),
    Index("jobs_by_age", "create_time"),
)
Index(
    "jobs_by_root",
    jobs.c.root_id,
    postgresql_where=jobs.c.parent_id != "",
    sqlite_where=jobs.c.parent_id != "",
)

live = Table(
    "live",
    metadata,
    Column("id", Key, primary_key=True),
    Column("root_id", Key, nullable=False),
    Column("parent_id", Key, nullable=False),
    Column("lane", Key, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("deadline", BigInteger, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    Column("phase", SmallInteger, nullable=False),
    Column("due_time", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fencing_token", BigInteger, nullable=False),
    Column("closed_token", BigInteger, nullable=False),
    Column("report_number", BigInteger, nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("lease_expire_time", BigInteger, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("has_text", Boolean, nullable=False),
    Column("claim_id", Key, nullable=False),
    Column("checkpoint_bytes", Integer, nullable=False),
    Column("wake_time", BigInteger, nullable=False),
    Index("live_by_turn", "phase", "lane", "create_time"),
    Index("live_by_wake_time", "wake_time"),
    sqlite_with_rowid=False,
)
Index(
    "live_by_parent",
    live.c.parent_id,
    postgresql_where=live.c.parent_id != "",
    sqlite_where=live.c.parent_id != "",
)
Index(
    "live_by_claim",
    live.c.claim_id,
    postgresql_where=live.c.claim_id != "",
    sqlite_where=live.c.claim_id != "",
)

events = Table(
    "events",
    metadata,
    Column("root_id", Key, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("job_id", Key, nullable=False),
    Column("type", SmallInteger, nullable=False),
    # Kind of the job, channel of the text or type of the note.
    Column("name", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    # Lengths of merged pieces of text, comma-separated.
    Column("pieces", Text, nullable=False),
    PrimaryKeyConstraint("root_id", "sequence"),
    sqlite_with_rowid=False,
)

attempt_errors = Table(
    "attempt_errors",
    metadata,
    Column("job_id", Key, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("reason", SmallInteger, nullable=False),
    Column("message", Text, nullable=False),
    PrimaryKeyConstraint("job_id", "attempt"),
    sqlite_with_rowid=False,
)

# Leases that ended from outside, kept for workers whose watch was broken at that moment.
stops = Table(
    "stops",
    metadata,
    Column("worker_id", Key, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("job_id", Key, nullable=False),
    Column("fencing_token", BigInteger, nullable=False),
    Column("reason", SmallInteger, nullable=False),
    PrimaryKeyConstraint("worker_id", "job_id", "fencing_token"),
    Index("stops_by_time", "time"),
    sqlite_with_rowid=False,
)

# Ended roots whose logs hold text that is still to be merged.
compactions = Table("compactions", metadata, Column("root_id", Key, primary_key=True), sqlite_with_rowid=False)

audit = Table(
    "audit",
    metadata,
    Column("root_id", Key, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("job_id", Key, nullable=False),
    Column("record_json", Text, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("append_id", Text, nullable=False),
    PrimaryKeyConstraint("root_id", "sequence"),
    sqlite_with_rowid=False,
)
