"""What scenarios share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.scripts import script
from tests.support.house import TestHouse, house
from tests.support.postgres import fresh_database

OpenHouse = Callable[..., AbstractAsyncContextManager[TestHouse]]


@pytest.fixture
def open_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenHouse:
    """Opens a house whose models follow the given rules; options are those of `tests.support.house.house`."""

    def opened(*rules: str, **options: Any) -> AbstractAsyncContextManager[TestHouse]:
        return house(tmp_path, monkeypatch, script(*rules), **options)

    return opened


@pytest.fixture
def jobs_database_url(postgres_server_url: str) -> Iterator[str]:
    with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture
def budget_database_url(postgres_server_url: str) -> Iterator[str]:
    with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest) -> dict[str, str]:
    """Options of `open_house` for each kind of store."""
    if request.param == "sqlite":
        return {}
    return {f"{short}_url": request.getfixturevalue(f"{short}_database_url") for short in ("jobs", "budget")}
