"""Running a service: one way to listen, to tell that it is healthy, and to stop without dropping a call."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from svc_common import telemetry
from svc_common.channel import MAX_MESSAGE_BYTES
from svc_common.errors import ServiceError
from svc_common.server_interceptor import ServiceInterceptor
from svc_common.settings import ServiceSettings, SettingsError, load

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=ServiceSettings)


class StartupError(Exception):
    """The service cannot start; the message is one line for the operator."""


class Running(Protocol):
    """A started service."""

    @property
    def port(self) -> int: ...

    async def stop(self) -> None: ...


class GrpcServer:
    """A grpc.aio server with health, reflection and our interceptor. Add servicers to `grpc_server` before `start`."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self.grpc_server = grpc.aio.server(
            interceptors=[
                ServiceInterceptor(auth_token=settings.common.auth_token, max_call_seconds=settings.max_call_seconds)
            ],
            options=[
                # Without this a second server on the same port starts silently and calls fail at random.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # Clients re-resolve when a connection ends, and so find new replicas.
                ("grpc.max_connection_age_ms", 30 * 60 * 1000),
                ("grpc.max_connection_age_grace_ms", 330 * 1000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
            maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
        self.port = 0

    async def start(self, service_names: Sequence[str]) -> None:
        """Listens and serves. Raises StartupError when the address cannot be had."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc_server)
        names = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc_server)
        common = self._settings.common
        try:
            if common.tls_cert_file and common.tls_key_file:
                pair = (common.tls_key_file.read_bytes(), common.tls_cert_file.read_bytes())
                self.port = self.grpc_server.add_secure_port(self._settings.listen, grpc.ssl_server_credentials([pair]))
            else:
                self.port = self.grpc_server.add_insecure_port(self._settings.listen)
        except RuntimeError as error:
            raise StartupError(f"cannot listen on {self._settings.listen}: is the port in use?") from error
        except OSError as error:
            raise StartupError(f"cannot read the TLS files: {error}") from error
        await self.grpc_server.start()
        for name in ("", *service_names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def set_not_serving(self) -> None:
        """Tells health checkers to send nothing new. Calls still work."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Says NOT_SERVING, then lets running calls go on for `drain_seconds` at most."""
        await self.set_not_serving()
        await self.grpc_server.stop(self._settings.drain_seconds)


def run_service(name: str, settings_class: type[S], start: Callable[[S], Awaitable[Running]]) -> None:
    """The `main` of a service process: reads settings, starts, and stops on SIGTERM or SIGINT. Exits 78 when it cannot start."""
    try:
        settings = load(settings_class)
        telemetry.configure(name, settings.common.traces, settings.common.log_level)
        uvloop.run(_run(name, settings, start))
    except (SettingsError, StartupError, ServiceError) as error:
        sys.exit(_complain(name, error))


async def _run(name: str, settings: S, start: Callable[[S], Awaitable[Running]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    service = await start(settings)
    # What a service consists of stays. A full collection that looked at all of it would make every call wait.
    gc.collect()
    gc.freeze()
    logger.info("%s serves on port %d", name, service.port)
    await stopping.wait()
    logger.info("%s is stopping", name)
    await service.stop()


def _complain(name: str, error: Exception) -> int:
    sys.stderr.write(f"{name}: {error}\n")
    return 78  # EX_CONFIG of sysexits.h


def service_name(pb2_module: Any, service: str) -> str:
    """Full name of a service of a generated module, for health and reflection."""
    return str(pb2_module.DESCRIPTOR.services_by_name[service].full_name)
