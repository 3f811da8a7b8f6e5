"""A few seconds of the chaos run; the long form is `python -m tests.chaos.jobs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.jobs import Chaos


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_kills_under_load_break_no_promise(store: str, tmp_path: Path) -> None:
    chaos = Chaos(store, seconds=5, seed=1, folder=tmp_path)
    await chaos.run()
    assert chaos.problems == []
    assert sum(chaos.kills.values()) > 0
