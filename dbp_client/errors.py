"""What can go wrong with a call, for callers to catch.

ServiceError             any of them; `reason` says which, `message` is for people, `retry_after` (seconds) a hint
├── BadRequest           the call makes no sense as it is; `violations` names the fields
├── NotFound             no such request, job, tool, workspace or budget
├── Conflict             the id is taken by something else, or what it names is not in a state for this
├── AccessDenied         no token, or not the right one
├── LimitReached         too many requests, or no money left; the same call may succeed later
├── OutOfTime            the deadline came first
└── Unreachable          a service or its store does not answer
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from svc_common.errors import ErrorReason, ServiceError


class BadRequest(ServiceError):
    """The call makes no sense as it is."""


class NotFound(ServiceError):
    """What the call names does not exist."""


class Conflict(ServiceError):
    """What the call names is something else, or not in a state for this."""


class AccessDenied(ServiceError):
    """The token is missing or not the right one."""


class LimitReached(ServiceError):
    """A limit on requests or money stands in the way."""


class OutOfTime(ServiceError):
    """The deadline came first."""


class Unreachable(ServiceError):
    """A service or its store does not answer."""


_KINDS: dict[ErrorReason, type[ServiceError]] = {
    ErrorReason.INVALID_ARGUMENT: BadRequest,
    ErrorReason.PATH_OUTSIDE_WORKSPACE: BadRequest,
    ErrorReason.REQUEST_NOT_FOUND: NotFound,
    ErrorReason.JOB_NOT_FOUND: NotFound,
    ErrorReason.TOOL_NOT_FOUND: NotFound,
    ErrorReason.WORKSPACE_NOT_FOUND: NotFound,
    ErrorReason.BUDGET_NOT_FOUND: NotFound,
    ErrorReason.REQUEST_CONFLICT: Conflict,
    ErrorReason.REQUEST_NOT_ENDED: Conflict,
    ErrorReason.UNAUTHENTICATED: AccessDenied,
    ErrorReason.PERMISSION_DENIED: AccessDenied,
    ErrorReason.OVERLOADED: LimitReached,
    ErrorReason.BUDGET_EXCEEDED: LimitReached,
    ErrorReason.BUDGET_HELD: LimitReached,
    ErrorReason.DEADLINE_EXCEEDED: OutOfTime,
    ErrorReason.SERVICE_UNAVAILABLE: Unreachable,
    ErrorReason.STORE_UNAVAILABLE: Unreachable,
}


@contextmanager
def told_apart() -> Iterator[None]:
    """Raises each ServiceError of the block as what it is for a caller."""
    try:
        yield
    except ServiceError as error:
        kind = _KINDS.get(error.reason, ServiceError)
        if type(error) is kind:
            raise
        raise kind(
            error.reason,
            error.message,
            retry_after=error.retry_after,
            metadata=error.metadata,
            violations=error.violations,
        ) from error.__cause__
