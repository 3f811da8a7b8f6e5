"""The house from outside Python: grpcurl by reflection, and the `dbp` command with its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import sysconfig
from pathlib import Path

import pytest

from svc_common.settings import CommonSettings
from tests.scenarios.conftest import OpenHouse
from tests.scenarios.scripts import ANSWER, PLAN, TOOLS

BIN = Path(sysconfig.get_path("scripts"))


async def run(*command: str, common: CommonSettings | None = None) -> tuple[int, str, str]:
    environment = dict(os.environ)
    for name in ("coordinator", "tool", "jobs", "budget"):
        address = getattr(common, f"{name}_address") if common else "127.0.0.1:1"
        environment[f"DBP_{name.upper()}_ADDRESS"] = address
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def dbp(*arguments: str, common: CommonSettings | None = None) -> tuple[int, str, str]:
    return await run(sys.executable, "-m", "dbp_client", *arguments, common=common)


async def test_grpcurl_asks_by_reflection(open_house: OpenHouse) -> None:
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        target = opened.common.coordinator_address
        code, listed, _ = await run(str(BIN / "grpcurl"), "-plaintext", target, "list")
        assert code == 0
        assert "dbp.coordinator.v1.CoordinatorService" in listed.split()
        code, out, err = await run(
            str(BIN / "grpcurl"),
            "-plaintext",
            "-max-time",
            "30",
            "-d",
            '{"query": "Where are payments retried?", "max_cost": {"money": {"nanos": 50000000}}}',
            target,
            "dbp.coordinator.v1.CoordinatorService/ProcessRequest",
        )
    assert code == 0, err
    assert '"outcome": "OUTCOME_COMPLETE"' in out
    assert "shop/orders.py" in out


async def test_the_command_asks_shows_and_tells_by_its_exit_code(open_house: OpenHouse) -> None:
    async with open_house(PLAN, TOOLS, ANSWER) as opened:
        code, out, err = await dbp("ask", "Where?", "--request-id", "asked", "--json", common=opened.common)
        assert code == 0, err
        events = [json.loads(line) for line in out.splitlines()]
        assert "accepted" in events[0]
        assert events[-1]["result"]["outcome"] == "OUTCOME_COMPLETE"

        code, out, _ = await dbp("watch", "asked", common=opened.common)
        assert code == 0
        assert "shop/orders.py" in out
        assert "codebase_context" in out

        assert (await dbp("status", "asked", common=opened.common))[0] == 0
        assert (await dbp("status", "nothing", common=opened.common))[0] == 2
        assert (await dbp("cancel", "asked", common=opened.common))[0] == 0
        assert (await dbp("budget", "verify", common=opened.common))[0] == 0

        code, out, err = await dbp("audit", "asked", common=opened.common)
        assert code == 0
        assert "model_call" in out
        assert "unbroken" in err
        code, out, _ = await dbp("audit", "asked", "--json", common=opened.common)
        assert [json.loads(line)["sequence"] for line in out.splitlines()][:2] == [1, 2]

        code, out, _ = await dbp("tools", common=opened.common)
        assert code == 0
        assert "read_files" in out

        code, out, err = await dbp("read", "README.md", "../outside", common=opened.common)
        assert code == 3
        assert "# Shop" in out
        assert "../outside" in err

        code, out, _ = await dbp("context", "coordinator_get_codebase_context", "payments", common=opened.common)
        assert code == 0
        assert "shop/orders.py" in out


async def test_a_partial_answer_has_its_own_exit_code(open_house: OpenHouse) -> None:
    async with open_house(PLAN, ANSWER) as opened:  # no rule for the tools: their models fail
        code, _, err = await dbp("ask", "Where?", common=opened.common)
    assert code == 3, err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ask", "Where?"], 5),
        (["ask"], 2),
        (["ask", "Where?", "--timeout", "soon"], 2),
        (["ask", "Where?", "--max-cost", "much"], 2),
        (["ask", "Where?", "--workspace", "."], 2),
        (["watch", "request", "--after", "9" * 30], 2),
        (["nonsense"], 2),
    ],
)
async def test_bad_usage_and_an_unreachable_house_differ(arguments: list[str], code: int) -> None:
    got, _, err = await dbp(*arguments)
    assert got == code
    assert "Traceback" not in err
    assert err.strip()
