"""What the service does by itself goes on, whatever happens to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy import Connection

from budget_svc import queries
from svc_common.errors import ErrorReason
from tests.budget_svc.house import House, ManualClock, refused
from tests.budget_svc.test_waiting import Turns

OpenHouse = Callable[..., Awaitable[House]]


async def test_leases_are_ended_again_after_a_sweep_that_broke(
    open_house: OpenHouse, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lapsed_charges = queries.lapsed_charges

    def breaks_once(connection: Connection, now: int, most: int) -> list[str]:
        monkeypatch.setattr(queries, "lapsed_charges", lapsed_charges)
        raise RuntimeError("a bug")

    monkeypatch.setattr(queries, "lapsed_charges", breaks_once)
    house = await open_house(sweep_seconds=0.01)
    await house.create("request", 100)
    await house.reserve("first", "request", 100, lease=10)
    turns = Turns(house)
    await turns.wait("c", "request", 60)
    clock.pass_seconds(10)
    assert await turns.until(1) == ["c"]


async def test_work_goes_on_after_a_failover_that_left_the_store_read_only(
    open_house: OpenHouse, database_url: str, clock: ManualClock
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a SQLite file has no standby")
    house = await open_house(sweep_seconds=0.01)
    await house.create("request", 100)
    await house.reserve("first", "request", 100, lease=10)
    turns = Turns(house)
    await turns.wait("c", "request", 60)
    fail_over(database_url, read_only=True)
    clock.pass_seconds(10)
    for _ in range(10):
        assert (await refused(house.reserve("d", "request", 10))).reason is ErrorReason.STORE_UNAVAILABLE
    fail_over(database_url, read_only=False)
    assert await turns.until(1) == ["c"]


def fail_over(url: str, *, read_only: bool) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        [name] = connection.execute("SELECT current_database()").fetchone() or ("",)
        connection.execute(
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = {"on" if read_only else "off"}'
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
