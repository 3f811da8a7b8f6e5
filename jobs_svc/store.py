"""The queue's store: batches of operations, each batch one transaction and one writer at a time, on SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from jobs_svc.low_water import LowWater
from jobs_svc.operations import Ages
from jobs_svc.policy import Policy
from jobs_svc.reads import Reads
from jobs_svc.statements import Statements
from jobs_svc.transaction import Changes, Operation, Transaction, Upkeep
from svc_common.errors import ServiceError
from svc_common.store import Database
from svc_common.times import Clock

MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """`on_commit` is called in the writing thread, after each commit and before its results are known."""

    def __init__(self, database: Database, policy: Policy, clock: Clock, on_commit: Callable[[Changes], None]) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock
        self._on_commit = on_commit
        self._statements = Statements(is_sqlite=database.is_sqlite)
        self._ages = Ages()
        self.low_water = LowWater()
        self.reads = Reads(database, self._statements)

    def execute(self, ops: Sequence[Operation]) -> Sequence[Any]:
        """Does a batch of operations in one transaction; for `GroupCommitter`."""

        def work(connection: Connection) -> tuple[list[Any], Changes]:
            transaction = Transaction(
                connection, self._statements, self._policy, self._clock, self._ages, self.low_water
            )
            return transaction.run(ops), transaction.changes

        # Upkeep goes through SQLAlchemy, which takes a statement in a pipeline for one that returned nothing.
        pipelined = not any(isinstance(op, Upkeep) for op in ops)
        try:
            results, changes = self._database.write(work, pipelined=pipelined)
        except Exception as error:
            self.low_water.forget()
            if isinstance(error, ServiceError):
                # The connection may have been lost after the commit and before its acknowledgement.
                self._on_commit(Changes(in_doubt=True))
            raise
        self._on_commit(changes)
        return results
