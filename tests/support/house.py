"""The whole house in one process, over real gRPC and SQLite files, with a scripted Bedrock: for scenarios."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import budget_svc.server
import coordinator_svc.server
import jobs_svc.server
import tool_svc.server
from budget_svc.prices import load_prices
from budget_svc.settings import BudgetSettings
from coordinator_svc.settings import CoordinatorSettings
from dbp_client import AsyncClient
from jobs_svc.settings import JobsSettings
from local_bedrock.backends.script import parse_script
from local_bedrock.invoice import InvoiceRecord, billed_tokens
from local_bedrock.server import RunningEndpoint
from local_bedrock.server import start as start_bedrock
from local_bedrock.settings import LocalBedrockSettings
from svc_common.settings import CommonSettings
from svc_common.times import now
from svc_common.tokens import TokenUsage
from tool_svc.settings import ToolServiceSettings


@dataclass
class TestHouse:
    __test__ = False
    client: AsyncClient
    bedrock: RunningEndpoint
    common: CommonSettings
    workspace: Path


@asynccontextmanager
async def house(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    *,
    jobs_url: str = "",
    budget_url: str = "",
    workspace: Path | None = None,
    coordinator: dict[str, Any] | None = None,
) -> AsyncIterator[TestHouse]:
    """All services on free ports. Without a script the bundled model answers. `coordinator` are further settings of
    coordinator_svc.
    """
    root = workspace or small_repository(tmp_path / "workspace")
    async with AsyncExitStack() as stack:
        bedrock = await stack.enter_async_context(
            await start_bedrock(
                LocalBedrockSettings(port=0, backend="llama" if script is None else "script"),
                script=None if script is None else parse_script(script),
            )
        )
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", bedrock.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        jobs = await jobs_svc.server.start(
            JobsSettings(listen="127.0.0.1:0", database_url=jobs_url or f"sqlite:///{tmp_path}/jobs.sqlite")
        )
        stack.push_async_callback(jobs.stop)
        budget = await budget_svc.server.start(
            BudgetSettings(listen="127.0.0.1:0", database_url=budget_url or f"sqlite:///{tmp_path}/budget.sqlite")
        )
        stack.push_async_callback(budget.stop)
        keepers = CommonSettings(jobs_address=f"127.0.0.1:{jobs.port}", budget_address=f"127.0.0.1:{budget.port}")
        tool = await tool_svc.server.start(
            ToolServiceSettings(
                common=keepers,
                listen="127.0.0.1:0",
                workspaces={"default": str(root)},
                cache_dir=tmp_path / "cache",
                drain_seconds=0.5,
            )
        )
        stack.push_async_callback(tool.stop)
        doers = keepers.model_copy(update={"tool_address": f"127.0.0.1:{tool.port}"})
        front = await coordinator_svc.server.start(
            CoordinatorSettings(common=doers, listen="127.0.0.1:0", drain_seconds=0.5, **(coordinator or {}))
        )
        stack.push_async_callback(front.stop)
        common = doers.model_copy(update={"coordinator_address": f"127.0.0.1:{front.port}"})
        client = await stack.enter_async_context(AsyncClient(common))
        yield TestHouse(client, bedrock, common, root)


def billed_pico_usd(records: Iterable[InvoiceRecord]) -> int:
    """What the calls on an invoice cost by the price file."""
    prices = load_prices()
    total = 0
    for (model_id, tier), usage in billed_tokens(records).items():
        counted = TokenUsage(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
        total += prices.find(model_id, tier, now=now()).price.cost(counted)
    return total


def small_repository(root: Path) -> Path:
    """A git repository with a package, a document and a changelog."""
    (root / "shop").mkdir(parents=True)
    (root / "shop" / "orders.py").write_text(
        '"""Takes orders and retries failed payments three times."""\n\nRETRIES = 3\n'
    )
    (root / "shop" / "stock.py").write_text('"""Counts what is on the shelves."""\n')
    (root / "README.md").write_text("# Shop\n\nTakes orders. Payments are retried, see `shop/orders.py`.\n")
    (root / "CHANGELOG.md").write_text("# Changes\n\n## 1.1\n\n- Retry payments.\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Retry payments"]):
        subprocess.run([*git, *command], check=True)
    return root
