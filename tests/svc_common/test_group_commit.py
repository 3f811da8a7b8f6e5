from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from svc_common.errors import ErrorReason, ServiceError
from svc_common.group_commit import GroupCommitter


async def test_operations_that_arrive_during_a_commit_share_the_next_one() -> None:
    batches: list[list[int]] = []
    go = threading.Event()
    begun = threading.Event()

    def execute(ops: Sequence[int]) -> list[int | Exception]:
        batches.append(list(ops))
        begun.set()
        go.wait(10)
        return [op * 10 for op in ops]

    committer = GroupCommitter(execute, name="test")
    tasks = [asyncio.create_task(committer.submit(number)) for number in range(5)]
    await asyncio.to_thread(begun.wait, 10)  # the first is alone in its commit, held there by `go`
    go.set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40]
    await committer.close()
    assert batches == [[0], [1, 2, 3, 4]]


async def test_one_poisonous_operation_fails_alone() -> None:
    def execute(ops: Sequence[int]) -> list[int | Exception]:
        if 3 in ops:
            raise ValueError("three")
        return [KeyError(str(op)) if op == 2 else op for op in ops]

    committer = GroupCommitter(execute, name="test")
    results = await asyncio.gather(*(committer.submit(number) for number in range(5)), return_exceptions=True)
    await committer.close()
    assert [results[0], results[1], results[4]] == [0, 1, 4]
    assert isinstance(results[2], KeyError)
    assert isinstance(results[3], ValueError)


async def test_a_poisonous_operation_costs_its_neighbours_few_commits() -> None:
    commits = 0

    def execute(ops: Sequence[int]) -> list[int | Exception]:
        nonlocal commits
        commits += 1
        if 17 in ops:
            raise ValueError("seventeen")
        return list(ops)

    committer = GroupCommitter(execute, name="test")
    results = await asyncio.gather(*(committer.submit(number) for number in range(200)), return_exceptions=True)
    await committer.close()
    assert [number for number, result in enumerate(results) if isinstance(result, ValueError)] == [17]
    assert commits < 30


async def test_a_store_that_is_away_is_asked_once_per_batch() -> None:
    asked = 0

    def execute(ops: Sequence[int]) -> list[int | Exception]:
        nonlocal asked
        asked += 1
        raise ServiceError(ErrorReason.STORE_UNAVAILABLE, "away")

    committer = GroupCommitter(execute, name="test")
    results = await asyncio.gather(*(committer.submit(number) for number in range(50)), return_exceptions=True)
    await committer.close()
    assert {type(result) for result in results} == {ServiceError}
    assert asked < 50


async def test_close_commits_what_is_pending_and_then_refuses() -> None:
    done: list[int] = []

    def execute(ops: Sequence[int]) -> list[int | Exception]:
        done.extend(ops)
        return list(ops)

    committer = GroupCommitter(execute, name="test")
    tasks = [asyncio.create_task(committer.submit(number)) for number in range(10)]
    await asyncio.sleep(0)
    await committer.close()
    assert sorted(done) == sorted(await asyncio.gather(*tasks)) == list(range(10))
    with pytest.raises(ServiceError, match="stopping"):
        await committer.submit(1)
