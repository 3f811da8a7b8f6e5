"""SIGKILL of the service under load, on either store: nothing acknowledged is lost, nothing is over, the ledger proves it."""

from __future__ import annotations

from tests.budget_svc.chaos import WORST_CASE, chaos


async def test_a_service_killed_under_load_keeps_its_ledger(database_url: str) -> None:
    verdict = await chaos(database_url, kills=2, seconds=30, callers=8, limit=WORST_CASE * 100_000, seed=1)
    assert verdict.kills == 2
    assert verdict.judge.finished > 0
    assert verdict.differences == 0
    assert 0 < verdict.judge.invoice <= verdict.spent <= verdict.limit


async def test_a_tight_limit_holds_through_kills(database_url: str) -> None:
    verdict = await chaos(database_url, kills=1, seconds=20, callers=8, limit=WORST_CASE * 20, seed=2)
    assert verdict.differences == 0
    assert verdict.judge.invoice <= verdict.spent <= verdict.limit
