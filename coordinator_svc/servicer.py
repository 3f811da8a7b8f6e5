"""The coordinator's RPCs: parse, call, format."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from dbp.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from dbp.jobs.v1 import jobs_pb2
from google.protobuf.json_format import MessageToDict

from coordinator_svc.front import Front
from coordinator_svc.requests import (
    DEFAULT_JOBS,
    DEFAULT_MAX_COST,
    DEFAULT_PARALLEL_JOBS,
    DEFAULT_ROUNDS,
    LARGEST_MAX_COST,
    RequestSpec,
    ResponseFormat,
    ScopeSpec,
    parse_response_schema,
)
from svc_common.endings import JobState
from svc_common.errors import invalid_field
from svc_common.ids import new_id
from svc_common.money import format_usd, from_amount, to_amount
from svc_common.server_interceptor import Context
from svc_common.times import MICROS, from_duration

_FORMATS = {
    coordinator_pb2.RESPONSE_FORMAT_UNSPECIFIED: ResponseFormat.MARKDOWN,
    coordinator_pb2.RESPONSE_FORMAT_CONCISE: ResponseFormat.CONCISE,
    coordinator_pb2.RESPONSE_FORMAT_DETAILED: ResponseFormat.DETAILED,
    coordinator_pb2.RESPONSE_FORMAT_MARKDOWN: ResponseFormat.MARKDOWN,
    coordinator_pb2.RESPONSE_FORMAT_JSON: ResponseFormat.JSON,
}


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    def __init__(self, front: Front) -> None:
        self._front = front

    async def ProcessRequest(
        self, request: coordinator_pb2.ProcessRequestRequest, context: Context
    ) -> AsyncIterator[coordinator_pb2.ProcessRequestResponse]:
        spec = parse_spec(request)
        reattach_within = from_duration(request.reattach_within) / MICROS
        async with self._front.attended(spec, reattach_within) as root:
            async for event in self._front.events(root, 0):
                yield coordinator_pb2.ProcessRequestResponse(event=event)

    async def WatchRequest(
        self, request: coordinator_pb2.WatchRequestRequest, context: Context
    ) -> AsyncIterator[coordinator_pb2.WatchRequestResponse]:
        async with self._front.watched(request.request_id) as root:
            async for event in self._front.events(root, request.after_sequence):
                yield coordinator_pb2.WatchRequestResponse(event=event)

    async def GetRequest(
        self, request: coordinator_pb2.GetRequestRequest, context: Context
    ) -> coordinator_pb2.GetRequestResponse:
        root = await self._front.find(request.request_id)
        return coordinator_pb2.GetRequestResponse(request=await self._with_result(root))

    async def ListRequests(
        self, request: coordinator_pb2.ListRequestsRequest, context: Context
    ) -> coordinator_pb2.ListRequestsResponse:
        page = await self._front.list_requests(request)
        return coordinator_pb2.ListRequestsResponse(
            requests=[format_request(job) for job in page.jobs], next_page_token=page.next_page_token
        )

    async def CancelRequest(
        self, request: coordinator_pb2.CancelRequestRequest, context: Context
    ) -> coordinator_pb2.CancelRequestResponse:
        root = await self._front.cancel(request.request_id)
        return coordinator_pb2.CancelRequestResponse(request=await self._with_result(root))

    async def _with_result(self, root: jobs_pb2.Job) -> coordinator_pb2.Request:
        formatted = format_request(root)
        if JobState(root.state).is_terminal:
            formatted.result.CopyFrom(await self._front.result_of(root))
        return formatted


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
    parameters: dict[str, Any] = MessageToDict(request.parameters)
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
        parameters=parameters,
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
