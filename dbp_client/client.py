"""Asking from Python, asynchronously.

    async with AsyncClient() as client:
        async for event in client.ask("Where are retries decided?", max_cost="0.05", timeout=60):
            ...

Events are `dbp.coordinator.v1.RequestEvent` messages; the last one holds the result. Failures are `ServiceError`, which carries the
reason that `dbp.common.v1.ErrorReason` documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from dbp.tool.v1 import tool_pb2, tool_pb2_grpc

from svc_common.channel import AWAY, UnaryMethod, call, open_channel, resumed, stream
from svc_common.errors import ErrorReason, ServiceError, invalid_field
from svc_common.ids import new_id
from svc_common.money import parse_usd, to_amount
from svc_common.settings import CommonSettings, load
from svc_common.times import duration_from_seconds

RequestEvent = coordinator_pb2.RequestEvent
Request = TypeVar("Request")
Response = TypeVar("Response")

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 300.0
_CALL_SECONDS = 30.0


class AsyncClient:
    """A connection to a house. Use it as an async context manager, on one event loop.

    Addresses, token and TLS come from `settings`, by default from the environment and files like those of the services.
    `patience` is how many seconds a service that is away is waited for.
    """

    def __init__(self, settings: CommonSettings | None = None, *, patience: float = 5.0) -> None:
        self._settings = settings or load(CommonSettings)
        self._patience = patience

    async def __aenter__(self) -> AsyncClient:
        addresses = self._settings
        self._channels = [
            open_channel(address, self._settings)
            for address in (
                addresses.coordinator_address,
                addresses.tool_address,
                addresses.jobs_address,
                addresses.budget_address,
            )
        ]
        self.coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(self._channels[0])
        self.tool = tool_pb2_grpc.ToolServiceStub(self._channels[1])
        self.jobs = jobs_pb2_grpc.JobsServiceStub(self._channels[2])
        self.budget = budget_pb2_grpc.BudgetServiceStub(self._channels[3])
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close(None)

    async def ask(
        self,
        query: str,
        *,
        workspace: str = "default",
        timeout: float = 30.0,
        max_cost: str = "",
        request_id: str = "",
        continue_when_detached: bool = False,
        **fields: Any,
    ) -> AsyncIterator[RequestEvent]:
        """Asks and yields the request's events, the result last.

        `timeout` in seconds becomes the one deadline of all the work; `max_cost` is a decimal number of US dollars. Further
        `fields` are those of `ProcessRequestRequest`. A lost connection is taken up again where it broke, without gap or
        repetition. Leaving the iteration early cancels the request unless `continue_when_detached`.
        """
        if not SHORTEST_SECONDS <= timeout <= LONGEST_SECONDS:
            raise invalid_field("timeout", f"must be between {SHORTEST_SECONDS:g} and {LONGEST_SECONDS:g} seconds")
        request = coordinator_pb2.ProcessRequestRequest(
            request_id=request_id or new_id(),
            query=query,
            workspace=workspace,
            # A connection that breaks must not cancel the work; leaving does, below.
            continue_when_detached=True,
            **fields,
        )
        if max_cost:
            request.max_cost.CopyFrom(to_amount(parse_usd(max_cost)))
        request.max_duration.CopyFrom(duration_from_seconds(timeout))
        ended = False
        try:
            async for event in self._resumed(request, timeout):
                ended = event.WhichOneof("event") == "result"
                yield event
        finally:
            if not ended and not continue_when_detached:
                await asyncio.shield(self._abandon(request.request_id))

    async def watch(self, request_id: str, after_sequence: int = 0) -> AsyncIterator[RequestEvent]:
        """Yields a request's events after a sequence, to the result, whatever happens to the connection."""
        watch = resumed(
            lambda after: self.coordinator.WatchRequest(
                coordinator_pb2.WatchRequestRequest(request_id=request_id, after_sequence=after)
            ),
            lambda response: int(response.event.sequence),
            after_sequence,
            patience=self._patience,
        )
        async for response in watch:
            yield response.event

    async def get(self, request_id: str) -> coordinator_pb2.Request:
        request = coordinator_pb2.GetRequestRequest(request_id=request_id)
        return (await self._call(self.coordinator.GetRequest, request)).request

    async def list_requests(self, **fields: Any) -> coordinator_pb2.ListRequestsResponse:
        """One page of requests, newest first; `fields` are those of `ListRequestsRequest`."""
        return await self._call(self.coordinator.ListRequests, coordinator_pb2.ListRequestsRequest(**fields))

    async def cancel(self, request_id: str) -> coordinator_pb2.Request:
        request = coordinator_pb2.CancelRequestRequest(request_id=request_id)
        return (await self._call(self.coordinator.CancelRequest, request)).request

    async def tools(self) -> Sequence[tool_pb2.Tool]:
        return (await self._call(self.tool.ListTools, tool_pb2.ListToolsRequest())).tools

    async def read_files(self, paths: Sequence[str], workspace: str = "default") -> tool_pb2.ReadFilesResponse:
        return await self._call(self.tool.ReadFiles, tool_pb2.ReadFilesRequest(workspace=workspace, paths=paths))

    async def prepare_context(
        self, tool: str, query: str, workspace: str = "default"
    ) -> tool_pb2.PrepareContextResponse:
        """What the LLM of a tool would be shown for a query."""
        tool_call = tool_pb2.ToolCall(tool=tool, workspace=workspace)
        tool_call.parameters.update({"query": query})
        return await self._call(self.tool.PrepareContext, tool_pb2.PrepareContextRequest(call=tool_call))

    async def audit(self, request_id: str) -> list[jobs_pb2.AuditRecord]:
        """All audit records of a request, in order."""
        records: list[jobs_pb2.AuditRecord] = []
        token = ""
        while True:
            request = jobs_pb2.ListAuditRecordsRequest(root_id=request_id, page_size=200, page_token=token)
            response = await self._call(self.jobs.ListAuditRecords, request)
            records.extend(response.records)
            token = response.next_page_token
            if not token:
                return records

    async def verify_ledger(self) -> budget_pb2.VerifyLedgerResponse:
        return await self._call(self.budget.VerifyLedger, budget_pb2.VerifyLedgerRequest())

    async def _resumed(
        self, request: coordinator_pb2.ProcessRequestRequest, timeout: float
    ) -> AsyncIterator[RequestEvent]:
        after_sequence = 0
        try:
            async with stream(self.coordinator.ProcessRequest(request, timeout=timeout)) as responses:
                async for response in responses:
                    after_sequence = response.event.sequence
                    yield response.event
            return
        except ServiceError as error:
            lost = error.reason in AWAY or error.reason is ErrorReason.DEADLINE_EXCEEDED
            if not lost or (after_sequence == 0 and error.reason not in AWAY):
                raise
            if after_sequence == 0 and not await self._was_accepted(request.request_id):
                raise
        async for event in self.watch(request.request_id, after_sequence):
            yield event

    async def _was_accepted(self, request_id: str) -> bool:
        try:
            await self.get(request_id)
        except ServiceError:
            return False
        return True

    async def _abandon(self, request_id: str) -> None:
        try:
            await self.cancel(request_id)
        except ServiceError:
            return  # not reachable, or never accepted: its deadline ends it

    async def _call(self, method: UnaryMethod[Request, Response], request: Request) -> Response:
        return await call(method, request, timeout=_CALL_SECONDS, patience=self._patience)
