"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, fresh_database, server_url


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """URL of the run's PostgreSQL server."""
    with server_url() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database for one test."""
    with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A started PostgreSQL server that a test may kill and restart."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
