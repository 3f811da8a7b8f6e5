"""The promises under chaos: the short form of `bench/promises.py`, and a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.promises import Plan, report, run


@pytest.mark.timeout(180)
async def test_nothing_breaks_a_promise(tmp_path: Path) -> None:
    findings = await run(Plan(seconds=10, seed=7, callers=5, longest_seconds=8, kill_seconds=2.5), tmp_path)
    assert findings.is_kept, report(findings)
    assert findings.outages
    assert findings.jobs


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_nothing_breaks_a_promise_for_long(store: str, tmp_path: Path) -> None:
    findings = await run(Plan(seconds=300, seed=11, store=store), tmp_path)
    assert findings.is_kept, report(findings)
