"""Composition root of coordinator_svc: settings in, everything built once and passed on."""

from __future__ import annotations

import grpc

from coordinator_svc.front import Front
from coordinator_svc.settings import CoordinatorSettings
from svc_common.server import GrpcServer
from svc_common.worker import Worker


class CoordinatorService:
    """A started coordinator: the front, and the worker that runs requests, its own and those of dead coordinators."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        server: GrpcServer,
        front: Front,
        worker: Worker,
        runner: LlmRunner,
        channels: list[grpc.aio.Channel],
    ) -> None:
        self._settings = settings
        self._server = server
        self._front = front
        self._worker = worker
        self._runner = runner
        self._channels = channels

    @property
    def port(self) -> int:
        return self._server.port

    async def stop(self) -> None:
        await self._server.set_not_serving()
        await self._worker.stop(self._settings.drain_seconds)
        await self._server.stop()
        await self._front.stop()
        await self._runner.close()
        for channel in self._channels:
            await channel.close(None)


async def start(settings: CoordinatorSettings) -> CoordinatorService:
    pass
