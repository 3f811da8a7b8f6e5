"""The one error of the domain: a reason that programs read and a message that people read.

`ErrorReason` mirrors `dbp.common.v1.ErrorReason` so that domain modules need no generated code; a test keeps the two alike.
How an error becomes a gRPC status, and back, is in `svc_common.status`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto


class ErrorReason(StrEnum):
    """Names of `dbp.common.v1.ErrorReason` without the prefix; documented there."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:
        return name

    INVALID_ARGUMENT = auto()
    UNAUTHENTICATED = auto()
    PERMISSION_DENIED = auto()
    DEADLINE_EXCEEDED = auto()
    INTERNAL = auto()
    SERVICE_UNAVAILABLE = auto()
    STORE_UNAVAILABLE = auto()
    OVERLOADED = auto()
    REQUEST_NOT_FOUND = auto()
    REQUEST_CONFLICT = auto()
    REQUEST_NOT_ENDED = auto()
    JOB_NOT_FOUND = auto()
    JOB_CONFLICT = auto()
    JOB_ENDED = auto()
    STALE_LEASE = auto()
    WATCHER_TOO_SLOW = auto()
    WORKSPACE_NOT_FOUND = auto()
    TOOL_NOT_FOUND = auto()
    PATH_OUTSIDE_WORKSPACE = auto()
    BUDGET_NOT_FOUND = auto()
    BUDGET_CONFLICT = auto()
    BUDGET_EXCEEDED = auto()
    BUDGET_HELD = auto()
    TOKEN_QUOTA_EXCEEDED = auto()
    MODEL_RATE_EXCEEDED = auto()
    TIME_BUDGET_EXCEEDED = auto()
    MODEL_NOT_PRICED = auto()
    CHARGE_NOT_FOUND = auto()
    CHARGE_STATE = auto()
    AMOUNT_OVERFLOW = auto()


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that breaks its rule: its path in the request and what is wrong with it."""

    field: str
    description: str


class ServiceError(Exception):
    """An operation that cannot be done, with the reason that goes to the caller.

    `message` is for the caller and never holds driver text or secrets. `retry_after` is in seconds and says that the same call
    may succeed then. `metadata` are further facts for programs, e.g. `budget_id`.
    """

    def __init__(
        self,
        reason: ErrorReason,
        message: str,
        *,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)

    def __repr__(self) -> str:
        return f"ServiceError({self.reason}: {self.message})"


def invalid_field(field: str, description: str) -> ServiceError:
    """The error for one field that breaks a rule which the proto cannot express."""
    return ServiceError(
        ErrorReason.INVALID_ARGUMENT, f"{field}: {description}", violations=(FieldViolation(field, description),)
    )
