"""Calling other services: channels with our manners, and calls that outlive a short absence of the callee."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import grpc
from grpc.aio import ClientCallDetails, Metadata

from svc_common import deadline, telemetry
from svc_common.errors import ErrorReason, ServiceError
from svc_common.settings import CommonSettings, SettingsError
from svc_common.status import error_of, is_connection_lost

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_SERVICE_CONFIG = json.dumps(
    {
        # pick_first would pin a channel to one replica; health checks take a draining one out of the round.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
    }
)

_CONNECT_SECONDS = 2.0
# A stream that broke after so long had been connected, however quiet it was.
_HELD_SECONDS = 1.5 * _CONNECT_SECONDS

AWAY = frozenset({ErrorReason.SERVICE_UNAVAILABLE, ErrorReason.STORE_UNAVAILABLE})
"""Reasons that say: the callee or its store is away, the same call may succeed later."""


class UnaryMethod(Protocol[Request, Response]):
    """A unary method of a generated stub."""

    def __call__(self, request: Request, *, timeout: float | None = None) -> Awaitable[Response]: ...


def open_channel(address: str, settings: CommonSettings) -> grpc.aio.Channel:
    """A channel to `host:port` or a `dns:///` target. Must be called, used and closed on one event loop.

    Raises SettingsError when the certificates cannot be read.
    """
    options = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.enable_retries", 0),  # ours is the only retry loop: `call`
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", int(_CONNECT_SECONDS * 1000)),  # its name notwithstanding
        ("grpc.max_reconnect_backoff_ms", 250),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    target = address if "://" in address else f"dns:///{address}"
    interceptors: Any = [_UnaryInterceptor(settings.auth_token), _StreamInterceptor(settings.auth_token)]
    if settings.tls_ca_file or settings.tls_cert_file:
        roots = _certificates(settings.tls_ca_file) if settings.tls_ca_file else None
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)
    return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)


def _certificates(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"DBP_TLS_CA_FILE ([common] tls_ca_file): {path}: {error.strerror}") from error


async def call(
    method: UnaryMethod[Request, Response],
    request: Request,
    *,
    timeout: float | None = None,
    patience: float = 0.0,
) -> Response:
    """Makes a unary call and raises `ServiceError` for its failures.

    The deadline of the work at hand bounds it, and `timeout` (seconds) each try. For `patience` seconds it is repeated, with
    growing pauses, while the callee or its store is away; every RPC of this house is safe to repeat.
    """
    loop = asyncio.get_running_loop()
    left = deadline.remaining()  # at its end, "away" says more than "out of time"
    give_up = loop.time() + (patience if left is None else min(patience, left))
    pause = 0.02
    while True:
        try:
            return await method(request, timeout=deadline.bounded(timeout))
        except grpc.aio.AioRpcError as rpc_error:
            error = error_of(rpc_error)
            if error.reason not in AWAY or loop.time() + pause > give_up:
                raise error from rpc_error
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, 0.5)


@asynccontextmanager
async def stream(rpc: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """Consumes a response stream; leaving the block cancels it. Its failures are raised as `ServiceError`."""

    async def responses() -> AsyncIterator[Any]:
        deadline.bounded(None)  # gRPC's own timer may fire after the first response of a quick callee
        try:
            async for response in rpc:
                yield response
        except grpc.aio.AioRpcError as rpc_error:
            raise error_of(rpc_error) from rpc_error

    try:
        yield responses()
    finally:
        rpc.cancel()


async def resumed(
    open_after: Callable[[int], Any],
    sequence_of: Callable[[Any], int],
    after_sequence: int,
    *,
    patience: float,
) -> AsyncGenerator[Any, None]:
    """The responses of a watch over a numbered log, each once, to its end, whatever happens to the connection.

    `open_after` begins a watch after a sequence, `sequence_of` says how far a response has come. Raises the callee's error when it
    has been away for `patience` seconds, or is away at the deadline; a watch may be quiet for as long as it likes.
    """
    loop = asyncio.get_running_loop()
    pause = 0.02
    lost: float | None = None  # since when there is no connection
    away: ServiceError | None = None  # what the last try ended with
    while True:
        began = loop.time()
        try:
            async with stream(open_after(after_sequence)) as responses:
                async for response in responses:
                    lost, away, pause = None, None, 0.02
                    after_sequence = sequence_of(response)
                    yield response
            return
        except ServiceError as error:
            broke = loop.time()
            if away is not None and error.reason is ErrorReason.DEADLINE_EXCEEDED:
                raise away from away.__cause__  # says more than "out of time"
            # A callee that answers late, and that it cannot, has waited for others: no sign that it was well meanwhile.
            if lost is None or (broke - began > _HELD_SECONDS and is_connection_lost(error)):
                lost, pause = broke, 0.02
            if error.reason not in AWAY | {ErrorReason.WATCHER_TOO_SLOW} or broke - lost > patience:
                raise
            away = error
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.5)


class _Interceptor:
    def __init__(self, auth_token: str) -> None:
        self._authorization = f"Bearer {auth_token}" if auth_token else ""

    def _details(self, details: ClientCallDetails) -> ClientCallDetails:
        metadata = Metadata(*(details.metadata or ()))
        if self._authorization:
            metadata.add("authorization", self._authorization)
        if traceparent := telemetry.current_traceparent():
            metadata.add(telemetry.TRACEPARENT, traceparent)
        # Out of time is for gRPC to say: a stream that an interceptor breaks off by raising raises once more when it is collected.
        timeout = deadline.cut_short(details.timeout)
        # grpc.aio's details are an immutable named tuple in every version, whatever its stubs say.
        return cast(Any, details)._replace(metadata=metadata, timeout=timeout)  # type: ignore[no-any-return]


class _UnaryInterceptor(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic only in the stubs
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._details(client_call_details), request)


class _StreamInterceptor(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]  # generic only in the stubs
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._details(client_call_details), request)
