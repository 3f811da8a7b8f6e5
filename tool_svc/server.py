"""The composition root of tool_svc: the gRPC service, the worker, or both in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dbp.budget.v1 import budget_pb2_grpc
from dbp.jobs.v1 import jobs_pb2_grpc
from dbp.tool.v1 import tool_pb2, tool_pb2_grpc

from llm.runner import open_runner
from llm.settings import LlmSettings
from llm.templates import TemplateError
from svc_common.channel import open_channel
from svc_common.errors import ServiceError
from svc_common.ids import process_name
from svc_common.server import GrpcServer, StartupError, run_service, service_name
from svc_common.settings import SettingsError, load
from svc_common.worker import Worker
from tool_svc.engine import ToolEngine
from tool_svc.files import WorkspaceFiles
from tool_svc.preparation import ContextPreparation
from tool_svc.registry import ToolRegistry
from tool_svc.result_cache import ResultCache
from tool_svc.servicer import ToolServicer
from tool_svc.settings import ToolServiceSettings
from tool_svc.tools import TOOLS
from tool_svc.tools.base import Tool
from tool_svc.worker import ToolJobs
from tool_svc.workspaces import Workspaces


class ToolService:
    """A started tool_svc. `start` makes one."""

    def __init__(self, settings: ToolServiceSettings, tools: Sequence[Tool]) -> None:
        self._settings = settings
        self._jobs_channel = open_channel(settings.common.jobs_address, settings.common)
        self._budget_channel = open_channel(settings.common.budget_address, settings.common)
        jobs = jobs_pb2_grpc.JobsServiceStub(self._jobs_channel)
        budgets = budget_pb2_grpc.BudgetServiceStub(self._budget_channel)
        registry = ToolRegistry(tools, settings.prompts_dir)
        surroundings = settings.surroundings()
        workspaces = Workspaces(surroundings.roots, surroundings.indexes)
        self._runner = open_runner(load(LlmSettings), settings.prompts_dir, budgets, jobs)
        self._files = WorkspaceFiles(workspaces, threads=settings.file_threads)
        self._contexts = ContextPreparation(self._files, surroundings, processes=settings.prepare_processes)
        self._cache = ResultCache(settings.cache_dir / "results", max_entries=settings.result_cache_entries)
        engine = ToolEngine(registry, self._files, self._contexts, self._runner, self._cache, settings.limits())
        self._server = GrpcServer(settings)
        self._service_names: list[str] = []
        if settings.runs_service:
            servicer = ToolServicer(registry, engine, self._files, budgets, slots=settings.concurrency)
            tool_pb2_grpc.add_ToolServiceServicer_to_server(servicer, self._server.grpc_server)
            self._service_names = [service_name(tool_pb2, "ToolService")]
        self._worker: Worker | None = None
        if settings.runs_worker:
            self._worker = Worker(
                jobs,
                worker_id=process_name("tool"),
                kinds=registry.names,
                slots=settings.concurrency,
                handler=ToolJobs(engine).handle,
            )

    @property
    def port(self) -> int:
        return self._server.port

    async def _start(self) -> None:
        await self._server.start(self._service_names)
        self._warming_up = asyncio.gather(self._files.warm_up(), self._contexts.warm_up())
        if self._worker is not None:
            self._worker.start()

    async def stop(self) -> None:
        """Takes nothing new, lets calls and jobs go on for `drain_seconds`, then cancels the calls and gives back the jobs."""
        self._warming_up.cancel()
        await self._server.set_not_serving()
        await asyncio.gather(self._server.stop(), self._stop_worker())
        await self._runner.close()
        self._cache.close()
        self._contexts.close()
        self._files.close()
        await asyncio.gather(self._jobs_channel.close(None), self._budget_channel.close(None))

    async def _stop_worker(self) -> None:
        if self._worker is not None:
            await self._worker.stop(self._settings.drain_seconds)


async def start(settings: ToolServiceSettings, tools: Sequence[Tool] = TOOLS) -> ToolService:
    """Builds everything, listens and pulls. Raises StartupError when a template, workspace, folder or address is unusable."""
    try:
        service = ToolService(settings, tools)
    except (TemplateError, SettingsError, ServiceError, OSError) as error:
        raise StartupError(str(error)) from error
    await service._start()
    return service


def main() -> None:
    run_service("tool_svc", ToolServiceSettings, start)
