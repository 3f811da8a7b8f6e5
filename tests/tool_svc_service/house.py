"""jobs_svc, budget_svc, a scripted Bedrock and a workspace; a test starts tool services beside them, in process or as processes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from dbp.tool.v1 import tool_pb2, tool_pb2_grpc

import budget_svc.server
import jobs_svc.server
import tool_svc.server
from budget_svc.settings import BudgetSettings
from jobs_svc.settings import JobsSettings
from local_bedrock.backends.script import Reply, Rule, Script, ToolCall, When
from local_bedrock.server import RunningEndpoint
from local_bedrock.server import start as start_bedrock
from local_bedrock.settings import LocalBedrockSettings
from svc_common.channel import call, open_channel
from svc_common.money import PICO, to_amount
from svc_common.settings import CommonSettings
from svc_common.times import MICROS, now
from tool_svc.settings import ToolServiceSettings
from tool_svc.tools import TOOLS
from tool_svc.tools.base import Tool
from tool_svc.wire import struct

CODEBASE = "coordinator_get_codebase_context"
PROMPTS = Path(__file__).parents[2] / "doc/llm/prompts"
RELEVANT = {
    "relevant_files": [
        {"path": path, "intent": "takes orders", "relevance_score": 1, "relevance_reason": "says so"}
        for path in ("shop/orders.py", "shop/invented.py")
    ]
}


def answering(output: Mapping[str, Any] = RELEVANT, **reply: Any) -> Rule:
    """The model gives this result."""
    return Rule(name="answer", reply=Reply(tools=(ToolCall(name="submit_result", input=dict(output)),), **reply))


def endless() -> Rule:
    """The model goes on and on, slowly."""
    return Rule(name="endless", reply=Reply(text="thinking ", endless=True, chunk_s=0.02))


def reading(*paths: str) -> Rule:
    """The model asks for files first."""
    tools = (ToolCall(name="read_files", input={"paths": list(paths)}),)
    return Rule(name="read", when=When(has_tool_results=False), reply=Reply(tools=tools))


@dataclass
class ToolHouse:
    common: CommonSettings
    bedrock: RunningEndpoint
    jobs: jobs_pb2_grpc.JobsServiceAsyncStub
    budgets: budget_pb2_grpc.BudgetServiceAsyncStub
    workspace: Path
    folder: Path
    _stack: AsyncExitStack

    async def start_tools(self, tools: Sequence[Tool] = TOOLS, **settings: Any) -> tool_pb2_grpc.ToolServiceAsyncStub:
        """A tool service in this process, with a stub of it."""
        return tool_pb2_grpc.ToolServiceStub(await self.start_tools_channel(tools, **settings))

    async def start_tools_channel(self, tools: Sequence[Tool] = TOOLS, **settings: Any) -> grpc.aio.Channel:
        """A tool service in this process, with a channel to it."""
        service = await tool_svc.server.start(self.settings(**settings), tools)
        self._stack.push_async_callback(service.stop)
        channel = open_channel(f"127.0.0.1:{service.port}", self.common)
        self._stack.push_async_callback(channel.close, None)
        return channel

    def settings(self, **settings: Any) -> ToolServiceSettings:
        given = {"listen": "127.0.0.1:0", "prompts_dir": PROMPTS, "drain_seconds": 0.2, **settings}
        workspaces = {"default": str(self.workspace)}
        return ToolServiceSettings(common=self.common, workspaces=workspaces, cache_dir=self.folder / "cache", **given)

    async def start_worker_process(
        self, module: str = "tool_svc", *, prompts_dir: Path = PROMPTS
    ) -> asyncio.subprocess.Process:
        """A process that only pulls jobs."""
        environment = os.environ | {
            "DBP_JOBS_ADDRESS": self.common.jobs_address,
            "DBP_BUDGET_ADDRESS": self.common.budget_address,
            "DBP_TOOL_LISTEN": "127.0.0.1:0",
            "DBP_TOOL_ROLE": "worker",
            "DBP_TOOL_WORKSPACES": f"default={self.workspace}",
            "DBP_TOOL_CACHE_DIR": str(self.folder / "cache"),
            "DBP_TOOL_PROMPTS_DIR": str(prompts_dir),
            "DBP_TOOL_DRAIN_SECONDS": "0.2",
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, env=environment)
        self._stack.push_async_callback(_end, process)
        return process

    async def budget(self, budget_id: str, limit: int = PICO) -> budget_pb2.Budget:
        new = budget_pb2.NewBudget(id=budget_id, tenant="default", limit=to_amount(limit))
        return (await call(self.budgets.CreateBudgets, budget_pb2.CreateBudgetsRequest(budgets=[new]))).budgets[0]

    async def spent(self, budget_id: str) -> int:
        request = budget_pb2.GetBudgetRequest(budget_id=budget_id)
        return (await call(self.budgets.GetBudget, request)).budget.spent.pico_usd

    async def submit(
        self, job_id: str, tool: str = CODEBASE, *, seconds: float = 60, traceparent: str = "", **parameters: Any
    ) -> None:
        """Creates a root job for a tool call, with a budget of the same name."""
        await self.budget(job_id)
        payload = tool_call(tool, budget_id=job_id, **parameters).SerializeToString()
        job = jobs_pb2.NewJob(id=job_id, tenant="default", kind=tool, payload=payload, traceparent=traceparent)
        job.deadline.FromMicroseconds(now() + int(seconds * MICROS))
        await call(self.jobs.CreateJobs, jobs_pb2.CreateJobsRequest(jobs=[job]))

    async def ended(self, job_id: str) -> jobs_pb2.Job:
        """The job, once it has ended."""
        _ = [event async for event in self.events(job_id)]
        return (await call(self.jobs.GetJob, jobs_pb2.GetJobRequest(job_id=job_id))).job

    async def events(self, job_id: str) -> AsyncIterator[jobs_pb2.Event]:
        async for response in self.jobs.WatchEvents(jobs_pb2.WatchEventsRequest(root_id=job_id)):
            for event in response.events:
                yield event

    async def model_is_talking(self, job_id: str) -> None:
        """Waits until the job has put out text of its model."""
        async for event in self.events(job_id):
            if event.HasField("text"):
                return
        raise AssertionError("the job ended before its model had spoken")


def tool_call(
    tool: str = CODEBASE, *, workspace: str = "default", budget_id: str = "", **parameters: Any
) -> tool_pb2.ToolCall:
    asked = parameters or {"query": "how are payments retried?"}
    return tool_pb2.ToolCall(tool=tool, workspace=workspace, budget_id=budget_id, parameters=struct(asked))


@asynccontextmanager
async def tool_house(folder: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ToolHouse]:
    async with AsyncExitStack() as stack:
        bedrock = await stack.enter_async_context(
            await start_bedrock(LocalBedrockSettings(port=0, backend="script"), script=Script(rules=(answering(),)))
        )
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", bedrock.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        jobs = await jobs_svc.server.start(
            JobsSettings(
                listen="127.0.0.1:0",
                database_url=f"sqlite:///{folder}/jobs.sqlite",
                lease_seconds=1.5,
                retry_delay_seconds=0,
                drain_seconds=0.2,
            )
        )
        stack.push_async_callback(jobs.stop)
        budget = await budget_svc.server.start(
            BudgetSettings(listen="127.0.0.1:0", database_url=f"sqlite:///{folder}/budget.sqlite", drain_seconds=0.2)
        )
        stack.push_async_callback(budget.stop)
        common = CommonSettings(jobs_address=f"127.0.0.1:{jobs.port}", budget_address=f"127.0.0.1:{budget.port}")
        channels = [open_channel(address, common) for address in (common.jobs_address, common.budget_address)]
        for channel in channels:
            stack.push_async_callback(channel.close, None)
        tools = await stack.enter_async_context(AsyncExitStack())
        yield ToolHouse(
            common=common,
            bedrock=bedrock,
            jobs=jobs_pb2_grpc.JobsServiceStub(channels[0]),
            budgets=budget_pb2_grpc.BudgetServiceStub(channels[1]),
            workspace=workspace,
            folder=folder,
            _stack=tools,
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
