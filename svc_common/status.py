"""Between `ServiceError` and gRPC status, both ways. The only module that knows which status goes with which reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from svc_common.errors import ErrorReason, FieldViolation, ServiceError
from svc_common.times import duration_from_seconds

DOMAIN = "dbp"
_DETAILS_KEY = "grpc-status-details-bin"
_ADDRESS = re.compile(r"\bipv[46]:(\S+:\d+)")  # as gRPC names a peer that it cannot reach

CODES: dict[ErrorReason, grpc.StatusCode] = {
    ErrorReason.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorReason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.INTERNAL: grpc.StatusCode.INTERNAL,
    ErrorReason.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.REQUEST_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.REQUEST_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.REQUEST_NOT_ENDED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.JOB_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.JOB_ENDED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.STALE_LEASE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.WATCHER_TOO_SLOW: grpc.StatusCode.ABORTED,
    ErrorReason.WORKSPACE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.TOOL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.PATH_OUTSIDE_WORKSPACE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.BUDGET_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.BUDGET_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.BUDGET_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.BUDGET_HELD: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.TOKEN_QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.MODEL_RATE_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.TIME_BUDGET_EXCEEDED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.MODEL_NOT_PRICED: grpc.StatusCode.NOT_FOUND,
    ErrorReason.CHARGE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.CHARGE_STATE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.AMOUNT_OVERFLOW: grpc.StatusCode.OUT_OF_RANGE,
}

# What an error without our ErrorInfo means: it comes from gRPC itself (a refused connection, a deadline) or from a foreign server.
_FOREIGN_REASONS: dict[grpc.StatusCode, ErrorReason] = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorReason.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED: ErrorReason.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorReason.PERMISSION_DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorReason.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE: ErrorReason.SERVICE_UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorReason.OVERLOADED,
}


def status_of(error: ServiceError) -> grpc.Status:
    """The status for `ServicerContext.abort_with_status`, with ErrorInfo and, where they apply, BadRequest and RetryInfo."""
    status = status_pb2.Status(code=CODES[error.reason].value[0], message=error.message)
    packed = [_pack(error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=error.metadata))]
    if error.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad_request.field_violations.add(field=violation.field, description=violation.description)
        packed.append(_pack(bad_request))
    if error.retry_after is not None:
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=duration_from_seconds(error.retry_after))))
    status.details.extend(packed)
    return rpc_status.to_status(status)


def error_of(rpc_error: grpc.aio.AioRpcError) -> ServiceError:
    """The `ServiceError` that a failed call stands for."""
    if own := _own_details(rpc_error):
        return _from_status(status_pb2.Status.FromString(own), rpc_error.code())
    reason = _FOREIGN_REASONS.get(rpc_error.code(), ErrorReason.INTERNAL)
    details = rpc_error.details() or rpc_error.code().name
    if reason is ErrorReason.SERVICE_UNAVAILABLE and (address := _ADDRESS.search(details)):
        details = f"no service answers at {address[1]}"
    return ServiceError(reason, details)


def is_connection_lost(error: ServiceError) -> bool:
    """Whether an error of `error_of` is gRPC's own, and not what a callee answered."""
    rpc_error = error.__cause__
    return isinstance(rpc_error, grpc.aio.AioRpcError) and _own_details(rpc_error) is None


def _own_details(rpc_error: grpc.aio.AioRpcError) -> bytes | None:
    """The status as `status_of` made it, or None for an error that is not ours."""
    for key, value in cast(Iterable[tuple[str, str | bytes]], rpc_error.trailing_metadata() or ()):
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return value
    return None


def _from_status(status: status_pb2.Status, code: grpc.StatusCode) -> ServiceError:
    reason = _FOREIGN_REASONS.get(code, ErrorReason.INTERNAL)
    metadata: dict[str, str] = {}
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        info, bad_request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            metadata = dict(info.metadata)
            if info.domain == DOMAIN and info.reason in ErrorReason.__members__:
                reason = ErrorReason(info.reason)
        elif detail.Unpack(bad_request):
            violations = [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToMicroseconds() / 1e6
    return ServiceError(reason, status.message, retry_after=retry_after, metadata=metadata, violations=violations)


def _pack(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
