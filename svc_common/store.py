"""Opening a database: the same tables and the same promises on SQLite and PostgreSQL.

SQLite: one file and one writing process per service, WAL, synchronous FULL, so that an acknowledged commit survives a power cut.
PostgreSQL: READ COMMITTED, psycopg 3.
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from svc_common.errors import ErrorReason, ServiceError

T = TypeVar("T")

# What the drivers raise for a row whose key is taken: where replicas insert, another one may have been quicker.
ROW_EXISTS = (sqlite3.IntegrityError, psycopg.IntegrityError)


# What the drivers raise while a database is away: lost and refused connections, a server that is starting or stopping or, after a
# failover, still a standby; a SQLite file that is locked or full.
_AWAY = (
    sqlite3.OperationalError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
)


def open_engine(url: str, *, pool_size: int = 8, pooled: bool = False) -> Engine:
    """An engine for `sqlite:///path` or `postgresql://...`. Raises ValueError for any other URL.

    `pooled` says that the URL leads to PgBouncer in transaction mode, where the next transaction may come to another server
    connection: nothing is prepared there.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise ValueError("a SQLite URL must name a file: an in-memory store would lose what it acknowledged")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(url, pool_size=pool_size, max_overflow=0, connect_args={"check_same_thread": False})
            event.listen(engine, "connect", _configure_sqlite)
            event.listen(engine, "begin", _begin_immediate_or_read)
            return engine
        case "postgresql":
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_size=pool_size,
                max_overflow=0,
                pool_pre_ping=False,
                isolation_level="READ COMMITTED",
                connect_args={"connect_timeout": 5, "prepare_threshold": None if pooled else 3},
            )
    raise ValueError(f"unknown kind of database: {parsed.get_backend_name()}")


def _configure_sqlite(connection: object, _: ConnectionPoolEntry) -> None:
    # Autocommit on the driver's side: the driver would otherwise begin its own deferred transactions, and a read transaction
    # that turns into a write fails with SQLITE_BUSY instead of waiting.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "cache_size=-16000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate_or_read(connection: Connection) -> None:
    mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns a database that is away into STORE_UNAVAILABLE. The driver's text stays in the cause, for the log."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated or isinstance(error.orig, _AWAY):
            raise ServiceError(ErrorReason.STORE_UNAVAILABLE, "the store does not answer", retry_after=0.2) from error
        raise
    except _AWAY as error:  # see svc_common.bulk
        raise ServiceError(ErrorReason.STORE_UNAVAILABLE, "the store does not answer", retry_after=0.2) from error
    except SQLAlchemyError as error:
        if "QueuePool limit" in str(error):
            raise ServiceError(ErrorReason.STORE_UNAVAILABLE, "the store is overloaded", retry_after=0.2) from error
        raise


def _own_file(path: str) -> IO[str]:
    """Makes this the one owner of a SQLite file, until what is returned is closed. Raises ValueError when there is another.

    The lock is on a file of its own: SQLite's locks on the database would end with any descriptor of it that is closed.
    """
    lock = Path(f"{path}.lock").open("w")  # noqa: SIM115 - held as long as the database
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ValueError(f"{path} belongs to another process that runs") from error
    return lock


class Database:
    """An engine and the threads in which it is read; writing goes through a `GroupCommitter` that calls `write`."""

    def __init__(self, engine: Engine, *, read_threads: int = 4) -> None:
        """Raises ValueError when another process has the SQLite file: what one of them commits, the other would not hear of."""
        self.engine = engine
        self._lock = _own_file(str(engine.url.database)) if self.is_sqlite else None
        self._reader = engine.execution_options(read_only=True)
        self._threads = ThreadPoolExecutor(read_threads, thread_name_prefix="store-read")

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def write(self, work: Callable[[Connection], T], *, pipelined: bool = False) -> T:
        """Runs `work` in one transaction, in the calling thread. Commits when it returns, rolls back when it raises.

        In a pipeline PostgreSQL is waited for only where rows are fetched, and at the end; so an error may come up later than the
        statement that caused it.
        """
        with translated_errors(), self.engine.connect() as connection:
            together = self._pipeline(connection) if pipelined and not self.is_sqlite else nullcontext()
            with together, connection.begin():
                return work(connection)

    def _pipeline(self, connection: Connection) -> AbstractContextManager[Any]:
        driver_connection: Any = connection.connection.driver_connection
        return cast(AbstractContextManager[Any], driver_connection.pipeline())

    def read_here(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in one read-only transaction, in the calling thread."""
        with translated_errors(), self._reader.begin() as connection:
            return work(connection)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in one read-only transaction, in a thread of this object."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.read_here, work)

    async def query(self, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """What one statement of `svc_common.bulk` returns, seen at one moment and without the cost of a transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._query_here, statement, parameters)

    def _query_here(self, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with translated_errors():
            connection = self.engine.raw_connection()
            try:
                driver_connection: Any = connection.driver_connection
                if not self.is_sqlite:
                    driver_connection.autocommit = True
                found = list(driver_connection.execute(statement, parameters).fetchall())
                if not self.is_sqlite:
                    driver_connection.autocommit = False
            except BaseException:
                connection.invalidate()
                raise
            connection.close()
            return found

    async def write_aside(self, work: Callable[[Connection], T]) -> T:
        """Like `write`, in a thread of this object: for upkeep that nobody waits for."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.write, work)

    def close(self) -> None:
        self._threads.shutdown()
        self.engine.dispose()
        if self._lock:
            self._lock.close()


def migrate(engine: Engine, migrations: Path) -> None:
    """Brings the tables to the newest revision of the Alembic scripts in `migrations`.

    Several replicas may start at once: on PostgreSQL an advisory lock lets one of them work and the others wait.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations))
    with translated_errors(), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236478)")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
