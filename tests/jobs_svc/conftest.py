from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.jobs_svc.client import Client, Services


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def services(database_url: str) -> AsyncIterator[Services]:
    async with Services(database_url) as services:
        yield services


@pytest.fixture
async def client(services: Services) -> Client:
    """A client of a service with default settings."""
    return services.client(await services.start())
