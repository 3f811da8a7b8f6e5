"""Composition root of coordinator_svc: settings in, everything built once and passed on."""

from __future__ import annotations

import asyncio
from functools import partial

from dbp.budget.v1 import budget_pb2_grpc
from dbp.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from dbp.jobs.v1 import jobs_pb2_grpc
from dbp.tool.v1 import tool_pb2_grpc

from coordinator_svc.budgets import BudgetsClient
from coordinator_svc.coordination import Parts, handle
from coordinator_svc.costs import ToolCosts
from coordinator_svc.front import Front
from coordinator_svc.jobs_client import JobsClient
from coordinator_svc.prompt import PLACEHOLDERS, TEMPLATE
from coordinator_svc.requests import KIND
from coordinator_svc.servicer import CoordinatorServicer
from coordinator_svc.settings import CoordinatorSettings
from coordinator_svc.tools import ToolsClient
from llm.runner import open_runner
from llm.settings import LlmSettings
from llm.templates import TemplateError, load_templates
from svc_common.channel import open_channel
from svc_common.ids import process_name
from svc_common.server import GrpcServer, StartupError, run_service, service_name
from svc_common.settings import SettingsError, load
from svc_common.worker import Worker


class CoordinatorService:
    """The front, and the worker that runs requests: its own, and those of coordinators that died. Made by `start`."""

    def __init__(self, settings: CoordinatorSettings, llm_settings: LlmSettings) -> None:
        self._settings = settings
        common = settings.common
        addresses = (common.jobs_address, common.budget_address, common.tool_address)
        self._channels = [open_channel(address, common) for address in addresses]
        jobs = jobs_pb2_grpc.JobsServiceStub(self._channels[0])
        budgets = budget_pb2_grpc.BudgetServiceStub(self._channels[1])
        tools = tool_pb2_grpc.ToolServiceStub(self._channels[2])
        patience = settings.service_patience_seconds
        templates = load_templates(settings.prompts_dir, {TEMPLATE: PLACEHOLDERS})
        self._runner = open_runner(llm_settings, settings.prompts_dir, budgets, jobs)
        self._tools = ToolsClient(tools, patience=patience, remember_seconds=settings.catalogue_seconds)
        parts = Parts(
            settings=settings,
            template=templates[TEMPLATE],
            runner=self._runner,
            jobs_client=JobsClient(jobs, patience),
            tools=self._tools,
            budgets=BudgetsClient(budgets, patience),
            costs=ToolCosts(budgets, self._runner.catalogue),
        )
        self._worker = Worker(
            jobs,
            worker_id=process_name("coordinator"),
            kinds=[KIND],
            slots=settings.running_requests,
            handler=partial(handle, parts),
        )
        self._front = Front(parts, self._worker)
        self._server = GrpcServer(settings)
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(
            CoordinatorServicer(self._front), self._server.grpc_server
        )

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self) -> None:
        await self._server.start([service_name(coordinator_pb2, "CoordinatorService")])
        self._worker.start()
        self._warming_up = asyncio.create_task(self._tools.warm_up())

    async def stop(self) -> None:
        """Takes no new request, lets running ones end for a while, and leaves the others to another coordinator."""
        self._warming_up.cancel()
        await self._server.set_not_serving()
        await self._worker.stop(self._settings.drain_seconds)
        await self._front.stop()
        await self._server.stop()
        await self._runner.close()
        for channel in self._channels:
            await channel.close(None)


async def start(settings: CoordinatorSettings) -> CoordinatorService:
    """Starts the service. Raises StartupError for a template, a model setting or an address that cannot be used."""
    try:
        service = CoordinatorService(settings, load(LlmSettings))
    except (TemplateError, SettingsError) as error:
        raise StartupError(str(error)) from error
    await service.start()
    return service


def main() -> None:
    run_service("coordinator_svc", CoordinatorSettings, start)
