"""The coordinator's RPCs: parse, call, format."""

from __future__ import annotations

from collections.abc import AsyncIterator

from dbp.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from dbp.jobs.v1 import jobs_pb2

from coordinator_svc.front import Front
from coordinator_svc.wire import format_request, listing_from, parse_spec
from svc_common.endings import JobState
from svc_common.server_interceptor import Context
from svc_common.times import MICROS, from_duration


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    def __init__(self, front: Front) -> None:
        self._front = front

    async def ProcessRequest(
        self, request: coordinator_pb2.ProcessRequestRequest, context: Context
    ) -> AsyncIterator[coordinator_pb2.ProcessRequestResponse]:
        spec = parse_spec(request)
        reattach_within = from_duration(request.reattach_within) / MICROS
        async with self._front.attended(spec, reattach_within) as root:
            async for event in self._front.events(root, request.after_sequence):
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
        page = await self._front.list_requests(listing_from(request))
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
