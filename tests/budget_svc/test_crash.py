"""SIGKILL of the service and of its callers under load: the invoice stays within the ledger, the ledger within the limit."""

from __future__ import annotations

import pytest

from tests.budget_svc.chaos import WORST_CASE, Plan, chaos


@pytest.mark.timeout(120)
async def test_nothing_that_was_billed_is_lost_when_services_and_callers_are_killed(database_url: str) -> None:
    verdict = await chaos(database_url, Plan(limit=WORST_CASE * 10**6, kills=4, seconds=30, seed=1))
    assert verdict.is_good, verdict
    assert verdict.kills == {"service": 2, "caller": 2}


@pytest.mark.timeout(120)
async def test_a_tight_limit_holds_through_kills(database_url: str) -> None:
    verdict = await chaos(database_url, Plan(limit=WORST_CASE * 40, kills=2, seconds=30, seed=2))
    assert verdict.is_good, verdict


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_nothing_that_was_billed_is_lost_in_the_long_run(database_url: str) -> None:
    verdict = await chaos(database_url, Plan(limit=WORST_CASE * 10**6, kills=10**6, seconds=120, callers=4, seed=3))
    assert verdict.is_good, verdict
