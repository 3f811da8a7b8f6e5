"""Between the coordinator's contract and its domain."""

from __future__ import annotations

from typing import Any

from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from coordinator_svc.requests import (
    DEFAULT_JOBS,
    DEFAULT_MAX_COST,
    DEFAULT_PARALLEL_JOBS,
    DEFAULT_ROUNDS,
    KIND,
    LARGEST_MAX_COST,
    RequestSpec,
    ResponseFormat,
    ScopeSpec,
)
from coordinator_svc.schemas import parse_response_schema
from svc_common.errors import invalid_field
from svc_common.ids import new_id
from svc_common.money import format_usd, from_amount, to_amount
from svc_common.times import from_duration

_FORMATS = {
    coordinator_pb2.RESPONSE_FORMAT_UNSPECIFIED: ResponseFormat.MARKDOWN,
    coordinator_pb2.RESPONSE_FORMAT_CONCISE: ResponseFormat.CONCISE,
    coordinator_pb2.RESPONSE_FORMAT_DETAILED: ResponseFormat.DETAILED,
    coordinator_pb2.RESPONSE_FORMAT_MARKDOWN: ResponseFormat.MARKDOWN,
    coordinator_pb2.RESPONSE_FORMAT_JSON: ResponseFormat.JSON,
}
# Requests that one page holds at most: what was asked takes up to some hundred KiB each, and a message has its limit.
_PAGE = 50


def parse_spec(request: coordinator_pb2.ProcessRequestRequest) -> RequestSpec:
    """The request with its defaults filled in. Raises INVALID_ARGUMENT for what the proto's own rules cannot say."""
    max_cost = from_amount(request.max_cost, "max_cost") if request.HasField("max_cost") else DEFAULT_MAX_COST
    if not 0 < max_cost <= LARGEST_MAX_COST:
        raise invalid_field("max_cost", f"must be more than 0 and at most {format_usd(LARGEST_MAX_COST)} USD")
    if not request.query.strip():
        raise invalid_field("query", "must not be blank")
    response_format = _FORMATS[request.response_format]
    if request.response_schema and response_format is not ResponseFormat.JSON:
        raise invalid_field("response_schema", "goes with RESPONSE_FORMAT_JSON only")
    if request.parameters.ByteSize() > 16 * 1024:
        raise invalid_field("parameters", "must be 16 KiB at most")
    return RequestSpec(
        id=request.request_id or new_id(),
        tenant=request.tenant or "default",
        query=request.query,
        workspace=request.workspace or "default",
        scope=ScopeSpec(
            include_patterns=tuple(request.scope.include_patterns),
            directories=tuple(request.scope.directories),
            exclude_patterns=tuple(request.scope.exclude_patterns),
        ),
        context=request.context,
        parameters=_parameters(request.parameters),
        response_format=response_format,
        response_schema=parse_response_schema(request.response_schema),
        max_micros=from_duration(request.max_duration),
        max_cost=max_cost,
        max_parallel_jobs=request.max_parallel_jobs or DEFAULT_PARALLEL_JOBS,
        max_rounds=request.max_rounds or DEFAULT_ROUNDS,
        max_jobs=request.max_jobs or DEFAULT_JOBS,
        priority=request.priority,
        continue_when_detached=request.continue_when_detached,
        previous_request_id=request.previous_request_id,
    )


def _parameters(parameters: Struct) -> dict[str, Any]:
    try:
        return MessageToDict(parameters)
    except ValueError as error:
        raise invalid_field("parameters", "must hold no number that is not finite: JSON has none") from error


def listing_from(request: coordinator_pb2.ListRequestsRequest) -> jobs_pb2.ListJobsRequest:
    listing = jobs_pb2.ListJobsRequest(
        tenant=request.tenant,
        kinds=[KIND],
        states=request.states,
        page_size=min(request.page_size or _PAGE, _PAGE),
        page_token=request.page_token,
        roots_only=True,
        omit_outcome=True,
    )
    if request.HasField("created_after"):
        listing.created_after.CopyFrom(request.created_after)
    if request.HasField("created_before"):
        listing.created_before.CopyFrom(request.created_before)
    return listing


def format_request(root: jobs_pb2.Job) -> coordinator_pb2.Request:
    """A request without its result."""
    spec = RequestSpec.from_json(root.payload)
    formatted = coordinator_pb2.Request(
        id=root.id,
        tenant=root.tenant,
        query=spec.query,
        workspace=spec.workspace,
        state=root.state,
        max_cost=to_amount(spec.max_cost),
        last_sequence=root.last_sequence,
    )
    for name in ("create_time", "end_time", "deadline"):
        if root.HasField(name):
            getattr(formatted, name).CopyFrom(getattr(root, name))
    return formatted
