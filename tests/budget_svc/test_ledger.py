"""The ledger: listed, summed, proved, folded."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import pytest
from dbp.budget.v1 import budget_pb2
from sqlalchemy import text

from budget_svc import retention
from svc_common.channel import call
from svc_common.errors import ErrorReason
from svc_common.store import open_engine
from svc_common.times import to_timestamp
from tests.budget_svc.house import House, ManualClock, refused
from tests.budget_svc.test_waiting import happens

OpenHouse = Callable[..., Awaitable[House]]
Entry = budget_pb2.LedgerEntry


async def spend(house: House, charge_id: str, budget_id: str, cost: int, **fields: object) -> None:
    await house.reserve(charge_id, budget_id, cost + 10, dispatch=True, **fields)
    await house.settle(charge_id, cost)


async def usage(house: House, **fields: object) -> list[tuple[str, str, str, str, int, int]]:
    response = await call(house.stub.GetUsage, budget_pb2.GetUsageRequest(**fields))  # type: ignore[arg-type]
    return [(row.tenant, row.model_id, row.tool, row.day, row.charge_count, row.cost.pico_usd) for row in response.rows]


def tamper(database_url: str, *statements: str) -> None:
    engine = open_engine(database_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


async def test_every_change_of_a_balance_is_an_entry(house: House, clock: ManualClock) -> None:
    await house.create("request", 100)
    await house.create("job", 50, parent_id="request")
    await house.reserve("c", "job", 30)
    await house.adjust("request", 80)
    await house.settle("c", 20)
    seen = [
        (entry.cause, entry.budget_id, entry.charge_id, entry.held_delta_pico_usd, entry.spent_delta_pico_usd)
        for entry in await house.entries("request")
    ]
    assert seen == [
        (Entry.CAUSE_CREATE, "request", "", 0, 0),
        (Entry.CAUSE_CREATE, "job", "", 0, 0),
        (Entry.CAUSE_RESERVE, "job", "c", 30, 0),
        (Entry.CAUSE_ADJUST, "request", "", 0, 0),
        (Entry.CAUSE_SETTLE, "job", "c", -30, 20),
    ]
    last = (await house.entries("job"))[-1]
    assert (last.time.ToMicroseconds(), last.model_id, last.tokens.input_tokens) == (clock.time, "penny", 20)
    assert [entry.limit_delta_pico_usd for entry in await house.entries("request")] == [100, 50, 0, -20, 0]
    await house.adjust("request", 80, conclusion_reserve=15)
    await house.adjust("request", 80, conclusion_reserve=15)
    last = (await house.entries("request"))[-1]
    assert (last.cause, last.conclusion_reserve_delta_pico_usd) == (Entry.CAUSE_ADJUST, 15)
    assert await house.verify() == []
    assert len(await house.entries()) == 7  # the tenant's came first
    assert (await refused(house.entries("none"))).reason is ErrorReason.BUDGET_NOT_FOUND


async def test_the_ledger_is_read_page_by_page(house: House) -> None:
    await house.create("request", 1000)
    for number in range(4):
        await spend(house, f"c{number}", "request", 5)
    request = budget_pb2.ListLedgerEntriesRequest(budget_id="request", page_size=4)
    sequences: list[int] = []
    while True:
        response = await call(house.stub.ListLedgerEntries, request)
        sequences += [entry.sequence for entry in response.entries]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert len(sequences) == 9
    assert sequences == sorted(sequences)
    request.page_token = "garbage"
    assert (await refused(call(house.stub.ListLedgerEntries, request))).violations[0].field == "page_token"


async def test_usage_is_summed_by_tenant_model_tool_and_day(house: House, clock: ManualClock) -> None:
    await house.create("request", 10**12)
    await house.create("job", 10**12, parent_id="request", tool="expert")
    await house.create("theirs", 10**12, tenant="other")
    for number in range(2):
        await spend(house, f"coordinator{number}", "request", 5)
        await spend(house, f"expert{number}", "job", 7)
    await house.reserve("open", "job", 50)
    await house.reserve("unknown", "theirs", 9)
    await house.settle("unknown")
    clock.pass_seconds(24 * 3600)
    await spend(house, "next-day", "job", 11)
    await house.reserve("dear", "job", 2, model_id="dear", dispatch=True)
    await house.settle("dear", input_tokens=1)
    first = ("acme", "penny", "", "2026-11-23", 2, 10)
    assert await usage(house, tenant="acme") == [
        ("acme", "dear", "expert", "2026-11-24", 1, 3_000_000),
        first,
        ("acme", "penny", "expert", "2026-11-23", 2, 14),
        ("acme", "penny", "expert", "2026-11-24", 1, 11),
    ]
    assert (await usage(house))[-1] == ("other", "penny", "", "2026-11-23", 1, 9)
    yesterday = {"end_time": to_timestamp(clock.time - 1), "tenant": "acme"}
    assert [row[3] for row in await usage(house, **yesterday)] == ["2026-11-23"] * 2
    assert [row[0] for row in await usage(house, start_time=to_timestamp(clock.time))] == ["acme"] * 2


async def test_verification_finds_a_balance_that_was_tampered_with(house: House, database_url: str) -> None:
    await house.create("request", 1000)
    await spend(house, "c", "request", 20)
    await house.reserve("d", "request", 30)
    assert await house.verify() == []
    tamper(
        database_url,
        "UPDATE budgets SET spent = spent - 1 WHERE id = 'request'",
        "UPDATE charges SET reserved = 29 WHERE id = 'd'",
    )
    found = [(each.budget_id, each.balance, each.recorded, each.computed) for each in await house.verify()]
    assert found == [("request", "open charges", 29, 30), ("request", "spent", 19, 20)]


async def test_the_command_that_verifies_fails_where_the_ledger_does_not_prove_a_balance(
    house: House, database_url: str
) -> None:
    await house.create("request", 1000)

    async def verify() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dbp_client", "budget", "verify"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "DBP_BUDGET_ADDRESS": f"127.0.0.1:{house.service.port}"},
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    code, output = await verify()
    assert (code, "request" in output) == (0, False)
    tamper(database_url, "UPDATE budgets SET spent = 1 WHERE id = 'request'")
    code, output = await verify()
    assert (code, "request" in output) == (4, True)


async def test_verification_finds_a_tree_that_does_not_hang_together(house: House, database_url: str) -> None:
    await house.create("a", 1000)
    await house.create("b", 1000, parent_id="a")
    await house.create("c", 1000, parent_id="b")
    await house.create("orphan", 1000)
    await spend(house, "charge", "orphan", 20)
    await house.reserve("open", "c", 30)
    tamper(
        database_url,
        "UPDATE budgets SET parent_id = 'c' WHERE id = 'b'",
        "UPDATE budgets SET parent_id = 'nowhere' WHERE id = 'orphan'",
        "UPDATE charges SET budget_id = 'nobody' WHERE id = 'open'",
    )
    found = {(each.budget_id, each.balance) for each in await house.verify()}
    assert found >= {(name, "way to the top") for name in ("b", "c", "orphan")}
    assert found >= {("nobody", "missing budget"), ("nobody", "open charges"), ("c", "open charges")}
    assert ("a", "way to the top") not in found


async def test_retention_folds_ended_charges_and_changes_no_balance(open_house: OpenHouse, clock: ManualClock) -> None:
    house = await open_house(retention_days=1)
    await house.create("request", 10**9)
    await house.create("job", 10**9, parent_id="request", tool="expert")
    for number in range(3):
        await spend(house, f"day1-{number}", "job", 10)
    await house.reserve("released", "job", 50)
    await house.release("released")
    await house.release("never-reserved")
    await house.reserve("full", "request", 40)
    await house.settle("full")
    clock.pass_seconds(24 * 3600)
    await spend(house, "day2", "job", 5)
    await house.reserve("open", "job", 60, lease=900)
    before = ([await house.budget(name) for name in ("job", "request")], await usage(house))

    assert await house.service.keeper.fold() == 0
    clock.pass_seconds(1)
    assert await house.service.keeper.fold() == 6
    assert await house.service.keeper.fold() == 0
    assert before == ([await house.budget(name) for name in ("job", "request")], await usage(house))
    assert await house.verify() == []
    folds = [entry for entry in await house.entries() if entry.cause == Entry.CAUSE_FOLD]
    assert [(entry.budget_id, entry.charge_count, entry.spent_delta_pico_usd) for entry in folds] == [
        ("job", 3, 30),
        ("request", 1, 40),
    ]
    assert (await refused(house.settle("full", 3))).reason is ErrorReason.CHARGE_NOT_FOUND

    clock.pass_seconds(24 * 3600)
    await house.service.keeper.sweep()
    assert await house.service.keeper.fold() == 1
    folds = [entry for entry in await house.entries("job") if entry.cause == Entry.CAUSE_FOLD]
    assert [(entry.charge_count, entry.spent_delta_pico_usd) for entry in folds] == [(3, 30), (1, 5)]
    assert await house.balances("request") == (75, 0)
    assert await house.verify() == []


async def test_replicas_that_fold_at_the_same_time_count_nothing_twice(
    open_house: OpenHouse, database_url: str, clock: ManualClock
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("one process per SQLite file")
    house = await open_house()
    await house.create("request", 10**9)
    engine = open_engine(database_url)

    def fold_one() -> int:
        with engine.begin() as connection:
            return retention.fold(connection, clock.time + 1, 1)

    await spend(house, "c0", "request", 10)
    assert fold_one() == 1
    await spend(house, "c1", "request", 10)
    await spend(house, "c2", "request", 10)
    with engine.begin() as first:
        assert retention.fold(first, clock.time + 1, 1) == 1
        second = asyncio.create_task(asyncio.to_thread(fold_one))
        # It wants the day's total as well.
        waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        await happens(lambda: bool(first.scalar(waiting)))
    assert await second == 1
    engine.dispose()
    assert await house.verify() == []
    assert await house.balances("request") == (30, 0)
