"""Asking from Python, asynchronously.

    async with AsyncClient() as client:
        async for event in client.ask("Where are retries decided?", max_cost="0.05", timeout=60):
            ...

Events are `dbp.coordinator.v1.RequestEvent` messages; the last one holds the result. What can go wrong is in `dbp_client.errors`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypedDict, TypeVar, Unpack

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from dbp.tool.v1 import tool_pb2, tool_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from dbp_client.errors import BadRequest, told_apart
from svc_common.channel import UnaryMethod, call, open_channel, resumed
from svc_common.errors import ErrorReason, ServiceError, invalid_field
from svc_common.ids import new_id
from svc_common.money import parse_usd, to_amount
from svc_common.settings import CommonSettings, load
from svc_common.times import duration_from_seconds

RequestEvent = coordinator_pb2.RequestEvent
Request = TypeVar("Request")
Response = TypeVar("Response")

SHORTEST_SECONDS, LONGEST_SECONDS, DEFAULT_SECONDS = 1.0, 300.0, 30.0
LONGEST_PATIENCE_SECONDS = 60.0
_CALL_SECONDS = 30.0
_ABANDON_SECONDS = 5.0


class AskOptions(TypedDict, total=False):
    """How `ask` asks. Defaults and limits are those of `dbp.coordinator.v1.ProcessRequestRequest`."""

    timeout: float
    """Seconds until there must be a result: the one deadline of all the work. Default 30, 1 to 300."""
    max_cost: str
    """Most it may cost, a decimal number of US dollars. Default "1.00", at most "10"."""
    workspace: str
    """Name of the workspace. Default "default"."""
    scope: common_pb2.Scope
    """Part of the workspace to look at."""
    tenant: str
    """Who pays. Default "default"."""
    request_id: str
    """Id and idempotency key. Default: a new one."""
    previous_request_id: str
    """An earlier request of the same tenant that this one continues."""
    continue_when_detached: bool
    """Go on when this caller leaves."""
    context: str
    """What the caller knows and the LLMs should; treated as data."""
    parameters: Mapping[str, Any]
    """Free parameters, shown to the coordinator LLM as data."""
    response_format: coordinator_pb2.ResponseFormat.ValueType
    """How the answer should be written."""
    response_schema: str
    """JSON schema of the answer, as JSON; with RESPONSE_FORMAT_JSON only."""
    max_parallel_jobs: int
    """Jobs that may run at the same time. Default 5, at most 10."""
    max_rounds: int
    """Rounds of tool calls. Default 4, at most 16."""
    max_jobs: int
    """Jobs in all. Default 16, at most 64."""
    priority: int
    """Higher is more urgent. Default 0, -100 to 100."""


class ListOptions(TypedDict, total=False):
    """Which requests `list_requests` returns; all that is given must hold."""

    tenant: str
    """Only this tenant's."""
    states: Sequence[common_pb2.JobState.ValueType]
    """Only requests in one of these states."""
    created_after: Timestamp
    """Only requests created at or after this time."""
    created_before: Timestamp
    """Only requests created before this time."""
    page_size: int
    """Requests per page. Default and largest 50."""
    page_token: str
    """`next_page_token` of the page before."""


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

    async def ask(self, query: str, **options: Unpack[AskOptions]) -> AsyncGenerator[RequestEvent, None]:
        """Asks and yields the request's events, the result last.

        A lost connection, or a coordinator that is not there yet, is waited for and the request taken up where it broke, without
        gap or repetition. Leaving the iteration early cancels the request unless `continue_when_detached`; so does the end of this
        process, after the client's patience.
        """
        request = self._request(query, options)
        clock = asyncio.get_running_loop().time
        due = clock() + options.get("timeout", DEFAULT_SECONDS)
        seen = 0
        ended = False

        def attach(after_sequence: int) -> Any:
            request.after_sequence = after_sequence
            return self.coordinator.ProcessRequest(request, timeout=due - clock())

        try:
            with told_apart():
                try:
                    async with aclosing(resumed(attach, _sequence, 0, patience=self._patience)) as responses:
                        async for response in responses:
                            seen = response.event.sequence
                            ended = response.event.WhichOneof("event") == "result"
                            yield response.event
                except ServiceError as error:
                    # A request that was taken in has its result by its deadline, be it that its news is late.
                    is_late = error.reason is ErrorReason.DEADLINE_EXCEEDED or clock() > due
                    if not is_late or not seen or ended:
                        raise
                    async with aclosing(self.watch(request.request_id, seen)) as events:
                        async for event in events:
                            ended = event.WhichOneof("event") == "result"
                            yield event
        finally:
            if not ended and not request.continue_when_detached:
                await asyncio.shield(self._abandon(request.request_id))

    async def watch(self, request_id: str, after_sequence: int = 0) -> AsyncGenerator[RequestEvent, None]:
        """Yields a request's events after a sequence, to the result, whatever happens to the connection."""

        def attach(after: int) -> Any:
            request = coordinator_pb2.WatchRequestRequest(request_id=request_id, after_sequence=after)
            return self.coordinator.WatchRequest(request)

        with told_apart():
            async with aclosing(resumed(attach, _sequence, after_sequence, patience=self._patience)) as responses:
                async for response in responses:
                    yield response.event

    async def get(self, request_id: str) -> coordinator_pb2.Request:
        """A request, with its result once it has ended."""
        request = coordinator_pb2.GetRequestRequest(request_id=request_id)
        return (await self._call(self.coordinator.GetRequest, request)).request

    async def list_requests(self, **options: Unpack[ListOptions]) -> coordinator_pb2.ListRequestsResponse:
        """One page of requests, newest first and without results."""
        return await self._call(self.coordinator.ListRequests, coordinator_pb2.ListRequestsRequest(**options))

    async def cancel(self, request_id: str) -> coordinator_pb2.Request:
        """Cancels a request and all its work; one that has ended stays as it is."""
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

    def _request(self, query: str, options: AskOptions) -> coordinator_pb2.ProcessRequestRequest:
        timeout = options.get("timeout", DEFAULT_SECONDS)
        if not SHORTEST_SECONDS <= timeout <= LONGEST_SECONDS:
            raise _bad_field("timeout", f"must be between {SHORTEST_SECONDS:g} and {LONGEST_SECONDS:g} seconds")
        fields: dict[str, Any] = {name: value for name, value in options.items() if name not in ("timeout", "max_cost")}
        fields["request_id"] = fields.get("request_id") or new_id()
        request = coordinator_pb2.ProcessRequestRequest(query=query, **fields)
        request.max_duration.CopyFrom(duration_from_seconds(timeout))
        request.reattach_within.CopyFrom(duration_from_seconds(min(self._patience, LONGEST_PATIENCE_SECONDS)))
        if max_cost := options.get("max_cost"):
            try:
                request.max_cost.CopyFrom(to_amount(parse_usd(max_cost)))
            except ValueError as error:
                raise _bad_field("max_cost", str(error)) from error
        return request

    async def _abandon(self, request_id: str) -> None:
        try:
            await call(
                self.coordinator.CancelRequest,
                coordinator_pb2.CancelRequestRequest(request_id=request_id),
                timeout=_ABANDON_SECONDS,
            )
        except ServiceError:
            return  # not reachable, or never accepted; it is not waited for us any longer than we said

    async def _call(self, method: UnaryMethod[Request, Response], request: Request) -> Response:
        with told_apart():
            return await call(method, request, timeout=_CALL_SECONDS, patience=self._patience)


def _sequence(response: coordinator_pb2.ProcessRequestResponse | coordinator_pb2.WatchRequestResponse) -> int:
    return int(response.event.sequence)


def _bad_field(field: str, description: str) -> BadRequest:
    error = invalid_field(field, description)
    return BadRequest(error.reason, error.message, violations=error.violations)
