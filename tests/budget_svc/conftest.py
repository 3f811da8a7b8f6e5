"""A real budget_svc behind gRPC, on either store, with a clock and prices that make amounts easy to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.budget_svc.house import PRICES, House, ManualClock


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/budget.sqlite"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def open_house(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[Callable[..., Awaitable[House]]]:
    """Opens a service with settings of the test's choice; several share the database, as replicas do."""
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    async with AsyncExitStack() as stack:

        async def open_one(**settings: Any) -> House:
            # Nothing ends by itself unless the test says so: it sweeps when it wants to.
            defaults = {"sweep_seconds": 60, "poll_seconds": 0.05, "price_file": prices, "drain_seconds": 0}
            house = await House.open(database_url, clock, {**defaults, **settings})
            stack.push_async_callback(house.close)
            return house

        yield open_one


@pytest.fixture
async def house(open_house: Callable[..., Awaitable[House]]) -> House:
    return await open_house()
