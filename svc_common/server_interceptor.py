"""What every call to every service goes through, in this order: authentication, span, deadline, validation, error translation.

One interceptor does it all, so that servicers need no `try` and no two services differ in manners.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import protovalidate
from google.protobuf.message import Message
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode

from svc_common import deadline, telemetry
from svc_common.errors import ErrorReason, FieldViolation, ServiceError
from svc_common.status import CODES, status_of
from svc_common.times import MICROS, now

logger = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
# Services of gRPC itself, with manners of their own.
_FOREIGN_METHODS = ("/grpc.health.v1.Health/", "/grpc.reflection.")
# KEDA cannot send a token; how much work waits is no secret.
_OPEN_METHODS = ("/externalscaler.",)
# A client without a deadline shows as None, or on some paths as a time of centuries.
_NO_DEADLINE_SECONDS = 10 * 365 * 24 * 3600


class ServiceInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic only in the stubs
    """`auth_token` empty asks for none. `max_call_seconds` is the deadline of unary calls that bring none."""

    def __init__(self, *, auth_token: str, max_call_seconds: float) -> None:
        self._auth_token = auth_token
        self._max_call_seconds = max_call_seconds
        self._is_recording = telemetry.is_recording()
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method
        if known := self._handlers.get(method):
            return known
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_FOREIGN_METHODS):
            return handler
        if handler.request_streaming:
            raise NotImplementedError(f"{method}: no contract of this house streams requests")
        if handler.response_streaming:
            wrapped = grpc.unary_stream_rpc_method_handler(
                self._streaming(method, cast(Any, handler.unary_stream)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        else:
            wrapped = grpc.unary_unary_rpc_method_handler(
                self._unary(method, cast(Any, handler.unary_unary)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        self._handlers[method] = wrapped
        return wrapped

    def _unary(self, method: str, behavior: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def handle(request: Message, context: Context) -> Any:
            with self._span(method, context) as span, _current(span):
                try:
                    self._enter(method, request, context, unary=True)
                    return await behavior(request, context)
                except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                    await _abort(context, span, error)

        return handle

    def _streaming(self, method: str, behavior: Callable[[Any, Context], AsyncIterator[Any]]) -> Any:
        async def handle(request: Message, context: Context) -> AsyncIterator[Any]:
            with self._span(method, context) as span:
                responses = None
                try:
                    self._enter(method, request, context, unary=False)
                    responses = behavior(request, context)
                    while True:
                        # Not while it is sent: one who leaves then has the generator closed in another context.
                        with _current(span):
                            response = await anext(responses, None)
                        if response is None:
                            return
                        yield response
                except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                    await _abort(context, span, error)
                finally:
                    # Left by cancellation, the servicer's generator must run its `finally` now and not when it is collected.
                    if responses is not None and (close := getattr(responses, "aclose", None)):
                        await close()

        return handle

    def _span(self, method: str, context: Context) -> AbstractContextManager[Span]:
        traceparent = _metadata(context, telemetry.TRACEPARENT)
        if not traceparent and not self._is_recording:
            return nullcontext(INVALID_SPAN)  # nothing to record, nothing to pass on
        service, _, name = method.removeprefix("/").rpartition("/")
        return telemetry.open_span(
            f"{service}/{name}",
            kind=SpanKind.SERVER,
            traceparent=traceparent,
            attributes={telemetry.RPC_SYSTEM: "grpc", telemetry.RPC_SERVICE: service, telemetry.RPC_METHOD: name},
        )

    def _enter(self, method: str, request: Message, context: Context, *, unary: bool) -> None:
        if self._auth_token and not method.startswith(_OPEN_METHODS):
            given = _metadata(context, "authorization").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._auth_token.encode()):
                raise ServiceError(ErrorReason.UNAUTHENTICATED, "the call carries no valid token")
        left = context.time_remaining()
        if left is not None and left < _NO_DEADLINE_SECONDS:
            deadline.set_current(now() + int(left * MICROS))
        elif unary:
            deadline.set_current(now() + int(self._max_call_seconds * MICROS))
        validate(request)


def _current(span: Span) -> AbstractContextManager[Span]:
    return nullcontext(span) if span is INVALID_SPAN else telemetry.current(span)


def validate(request: Message) -> None:
    """Checks a message against the rules in its proto. Raises INVALID_ARGUMENT with every violated field."""
    try:
        protovalidate.validate(request)
    except protovalidate.ValidationError as error:
        violations = [
            FieldViolation(_path(violation.proto.field), violation.proto.message or violation.proto.rule_id)
            for violation in error.violations
        ]
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise ServiceError(ErrorReason.INVALID_ARGUMENT, summary, violations=violations) from error


def _path(field: Any) -> str:
    path = ""
    for element in field.elements if field else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path


def _metadata(context: Context, name: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode(errors="replace")
    return ""


async def _abort(context: Context, span: Span, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ServiceError):
        known = error
        if error.reason in (ErrorReason.STORE_UNAVAILABLE, ErrorReason.INTERNAL):
            logger.warning("%s", error, exc_info=error.__cause__)
    elif isinstance(error, asyncio.TimeoutError):
        known = ServiceError(ErrorReason.DEADLINE_EXCEEDED, "the deadline came before the work was done")
    else:
        logger.error("unexpected error", exc_info=error)
        known = ServiceError(ErrorReason.INTERNAL, f"internal error; trace {telemetry.current_trace_id() or 'off'}")
    span.set_attribute(telemetry.RPC_STATUS, CODES[known.reason].value[0])
    span.set_status(Status(StatusCode.ERROR, known.reason.value))
    await cast(Any, context).abort_with_status(status_of(known))
    raise AssertionError("abort_with_status raises")
