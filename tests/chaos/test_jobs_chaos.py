"""Some seconds of the chaos run, and as a long form some minutes of it; `python -m tests.chaos.jobs` takes any time and seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.jobs import Chaos


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_kills_under_load_break_no_promise(store: str, tmp_path: Path) -> None:
    await run(Chaos(store, seconds=5, seed=1, folder=tmp_path))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_kills_under_load_break_no_promise_for_long(store: str, tmp_path: Path) -> None:
    await run(Chaos(store, seconds=300, seed=2, folder=tmp_path))


async def run(chaos: Chaos) -> None:
    await chaos.run()
    assert chaos.problems == []
    assert sum(chaos.kills.values()) > 0
