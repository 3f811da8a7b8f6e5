"""Results kept for identical calls, and their size."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from svc_common.endings import EndReason
from tool_svc.calls import Provenance, ToolResult
from tool_svc.result_cache import ResultCache, result_key
from tool_svc.result_size import capped

COMPLETE = ToolResult("t", output={"a": "ü"}, provenance=Provenance(cost=7, source_paths=("a.py",), snapshot_id="s"))
PARTIAL = ToolResult("t", text="half", is_partial=True, reason=EndReason.TIMEOUT)
KEY = result_key({"tool": "t"})


class Run:
    """What a call would do; counts how often it is done."""

    def __init__(self, result: ToolResult) -> None:
        self.result = result
        self.count = 0

    async def __call__(self) -> ToolResult:
        self.count += 1
        await asyncio.sleep(0)
        return self.result


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ResultCache]:
    opened = ResultCache(tmp_path, max_entries=50)
    yield opened
    opened.close()


async def test_a_complete_result_outlives_the_process_and_says_that_it_is_stored(
    cache: ResultCache, tmp_path: Path
) -> None:
    run = Run(COMPLETE)
    assert await cache.get_or_run(KEY, run) == COMPLETE
    cache.close()
    reopened = ResultCache(tmp_path, max_entries=50)
    again = await reopened.get_or_run(KEY, run)
    reopened.close()
    assert run.count == 1
    assert again.output == COMPLETE.output
    assert (again.provenance.is_cached, again.provenance.cost) == (True, 0)
    assert list(again.provenance.source_paths) == ["a.py"]


async def test_a_partial_result_is_not_kept_and_who_waited_runs_by_itself(cache: ResultCache) -> None:
    run = Run(PARTIAL)
    results = await asyncio.gather(*(cache.get_or_run(KEY, run) for _ in range(3)))
    assert results == [PARTIAL] * 3
    assert run.count == 3


async def test_a_cancelled_leader_leaves_the_work_to_the_next(cache: ResultCache) -> None:
    async def never() -> ToolResult:
        await asyncio.Event().wait()
        raise AssertionError

    leader = asyncio.create_task(cache.get_or_run(KEY, never))
    await asyncio.sleep(0)
    follower = asyncio.create_task(cache.get_or_run(KEY, Run(COMPLETE)))
    await asyncio.sleep(0)
    leader.cancel()
    assert await follower == COMPLETE


async def test_a_damaged_file_is_no_result_and_the_oldest_go_when_there_are_too_many(
    cache: ResultCache, tmp_path: Path
) -> None:
    (tmp_path / KEY).write_text("{")
    os.utime(tmp_path / KEY, (0, 0))
    for number in range(100):
        await cache.get_or_run(result_key({"number": number}), Run(COMPLETE))
    assert (
        await cache.get_or_run(result_key({"number": 99}), Run(COMPLETE))
    ).provenance.is_cached  # all is stored by now
    kept = os.listdir(tmp_path)
    assert len(kept) == 50
    assert KEY not in kept
    assert await cache.get_or_run(KEY, Run(COMPLETE)) == COMPLETE


@pytest.mark.parametrize(
    "stored", ['{"tool": "t"}', '["t"]', '{"tool": "t", "output": {}, "text": "", "provenance": {"gone": 1}}']
)
async def test_a_result_that_another_version_left_is_no_result(cache: ResultCache, tmp_path: Path, stored: str) -> None:
    (tmp_path / KEY).write_text(stored)
    assert await cache.get_or_run(KEY, Run(COMPLETE)) == COMPLETE


async def test_a_result_that_may_not_be_kept_is_made_anew(cache: ResultCache) -> None:
    run = Run(COMPLETE)
    for _ in range(2):
        await cache.get_or_run(KEY, run, may_keep=lambda: False)
    assert run.count == 2


def test_an_output_that_is_too_long_becomes_text_that_says_so() -> None:
    cut = capped(ToolResult("t", output={"a": "ü" * 5000}), 4096)
    assert cut.output is None
    assert cut.is_partial
    assert cut.provenance.is_truncated
    assert len(cut.text.encode()) < 4200
    assert "[... cut here" in cut.text
    assert capped(COMPLETE, 4096) is COMPLETE
