"""A request as it is kept in its job: what was asked, within which limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from svc_common.money import PICO
from svc_common.times import MICROS

KIND = "coordinate"

DEFAULT_MAX_COST = PICO
LARGEST_MAX_COST = 10 * PICO
LONGEST_MICROS = 300 * MICROS
DEFAULT_PARALLEL_JOBS = 5
DEFAULT_ROUNDS = 4
DEFAULT_JOBS = 16


class ResponseFormat(StrEnum):
    CONCISE = "concise"
    DETAILED = "detailed"
    MARKDOWN = "markdown"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class ScopeSpec:
    """The part of the workspace to look at; empty does not narrow."""

    include_patterns: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One question with its limits. Money in pico-USD, time in microseconds (0: the caller's deadline alone counts).

    It holds nothing that differs between two sendings of the same request, so its JSON tells whether two are the same.
    """

    id: str
    tenant: str
    query: str
    workspace: str
    scope: ScopeSpec = ScopeSpec()
    context: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    response_format: ResponseFormat = ResponseFormat.MARKDOWN
    response_schema: Mapping[str, Any] | None = None
    max_micros: int = 0
    max_cost: int = DEFAULT_MAX_COST
    max_parallel_jobs: int = DEFAULT_PARALLEL_JOBS
    max_rounds: int = DEFAULT_ROUNDS
    max_jobs: int = DEFAULT_JOBS
    priority: int = 0
    continue_when_detached: bool = False
    previous_request_id: str = ""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @staticmethod
    def from_json(data: bytes) -> RequestSpec:
        values = json.loads(data)
        scope = {name: tuple(items) for name, items in values.pop("scope").items()}
        response_format = ResponseFormat(values.pop("response_format"))
        return RequestSpec(scope=ScopeSpec(**scope), response_format=response_format, **values)


def request_deadline(spec: RequestSpec, now: int, caller_deadline: int | None, default: int, margin: int) -> int:
    """When the request must have its result: before the caller's deadline by `margin`, within its own maximum, else `default`
    from now. All in microseconds."""
    limits = [now + LONGEST_MICROS]
    if spec.max_micros:
        limits.append(now + spec.max_micros)
    if caller_deadline is not None:
        limits.append(caller_deadline - margin)
    if len(limits) == 1:
        limits.append(now + default)
    return min(limits)


def jobs_deadline(now: int, deadline: int, share: float, longest: int, latest: int) -> int:
    """When the jobs of a round must have ended so that the answer can still be written: what is left less its share, and not later
    than `latest`, when the LLM stops waiting for them."""
    return min(deadline - min(int((deadline - now) * share), longest), latest)
