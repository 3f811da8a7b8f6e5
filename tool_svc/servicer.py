"""ToolService on the wire: parse, call, format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.tool.v1 import tool_pb2, tool_pb2_grpc

from svc_common import deadline, telemetry
from svc_common.channel import call
from svc_common.errors import ErrorReason, ServiceError, invalid_field
from svc_common.ids import new_id
from svc_common.money import PICO, from_amount, to_amount
from svc_common.server_interceptor import Context
from svc_common.tasks import running
from svc_common.times import MICROS, from_duration, now, to_timestamp
from tool_svc.calls import Execution, Progress, ToolCall, ToolResult
from tool_svc.context.material import estimate_tokens
from tool_svc.engine import ToolEngine
from tool_svc.files import WorkspaceFiles
from tool_svc.read_files import READ_FILES
from tool_svc.registry import ToolRegistry
from tool_svc.wire import call_from, file_to, progress_to, result_to, scope_from, struct

_DEFAULT_MICROS = 30 * MICROS
_DEFAULT_COST = PICO // 10
_MAX_COST = 10 * PICO
_LISTED_PATHS = 200
_DEFAULT_TENANT = "default"
# One part in so many of a budget made here is held back for the instance's conclusion.
_CONCLUSION_PART = 10
# Seconds for which budget_svc may be away.
_PATIENCE = 5.0
# How long before the caller's deadline the last message is sent.
_REPLY_MARGIN = MICROS // 5


class ToolServicer(tool_pb2_grpc.ToolServiceServicer):
    """`slots` direct calls run and contexts are prepared at once; jobs have slots of their own."""

    def __init__(
        self,
        registry: ToolRegistry,
        engine: ToolEngine,
        files: WorkspaceFiles,
        budgets: budget_pb2_grpc.BudgetServiceAsyncStub,
        *,
        slots: int,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._files = files
        self._budgets = budgets
        self._slots = asyncio.Semaphore(slots)

    async def ListTools(self, request: tool_pb2.ListToolsRequest, context: Context) -> tool_pb2.ListToolsResponse:
        tools = [
            tool_pb2.Tool(
                name=registered.tool.name,
                description=registered.tool.description,
                parameters_schema=struct(registered.tool.parameters_schema),
                model_role=registered.tool.model_role,
                template_hash=registered.template.content_hash,
                runs_as_job=True,
            )
            for registered in self._registry
        ]
        reader = tool_pb2.Tool(
            name=READ_FILES.name,
            description=READ_FILES.description,
            parameters_schema=struct(READ_FILES.input_schema),
        )
        return tool_pb2.ListToolsResponse(tools=sorted([*tools, reader], key=lambda tool: tool.name))

    async def ExecuteTool(
        self, request: tool_pb2.ExecuteToolRequest, context: Context
    ) -> AsyncIterator[tool_pb2.ExecuteToolResponse]:
        until = _deadline_of(request)
        deadline.set_current(until)
        if self._slots.locked():
            raise ServiceError(ErrorReason.OVERLOADED, "all slots for direct calls are taken", retry_after=1.0)
        async with self._slots:
            tool_call = await self._with_budget(request, call_from(request.call), until)
            listener = _QueueListener()
            async with running(self._execute(tool_call, until, listener)) as execution:
                execution.add_done_callback(listener.end)
                async for response in listener.responses():
                    yield response
                yield tool_pb2.ExecuteToolResponse(result=result_to(execution.result()))

    async def ReadFiles(self, request: tool_pb2.ReadFilesRequest, context: Context) -> tool_pb2.ReadFilesResponse:
        async with self._files.snapshot(
            request.workspace, scope_from(request.scope), id_=request.snapshot_id
        ) as snapshot:
            read = await self._files.run(
                snapshot.read_files, request.paths, max_bytes_per_file=request.max_bytes_per_file
            )
        return tool_pb2.ReadFilesResponse(files=map(file_to, read.files), missing=read.missing)

    async def ListWorkspaces(
        self, request: tool_pb2.ListWorkspacesRequest, context: Context
    ) -> tool_pb2.ListWorkspacesResponse:
        return tool_pb2.ListWorkspacesResponse(names=sorted(self._files.names))

    async def DescribeWorkspace(
        self, request: tool_pb2.DescribeWorkspaceRequest, context: Context
    ) -> tool_pb2.DescribeWorkspaceResponse:
        async with self._files.snapshot(request.workspace, scope_from(request.scope)) as snapshot:
            described = await self._files.run(
                snapshot.base_context, datetime.now(UTC), max_paths=request.max_paths or _LISTED_PATHS
            )
        return tool_pb2.DescribeWorkspaceResponse(
            snapshot_id=described.snapshot_id,
            paths=described.paths,
            files_total=described.files_total,
            business_context=[
                tool_pb2.FileContent(path=file.path, content=file.content, exists=True, is_truncated=file.is_cut)
                for file in described.business
            ],
            languages=described.languages,
        )

    async def PrepareContext(
        self, request: tool_pb2.PrepareContextRequest, context: Context
    ) -> tool_pb2.PrepareContextResponse:
        async with self._slots:
            prompt = await self._engine.prepare(call_from(request.call), request.max_tokens)
        return tool_pb2.PrepareContextResponse(
            system=prompt.system,
            user=prompt.user,
            tokens=estimate_tokens(prompt.system) + estimate_tokens(prompt.user),
            included_paths=prompt.context.included,
            left_out_paths=prompt.context.left_out,
            left_out_count=prompt.context.left_out_count,
            files_total=prompt.context.files_in_scope,
            snapshot_id=prompt.context.snapshot_id,
        )

    async def _execute(self, tool_call: ToolCall, until: int, listener: _QueueListener) -> ToolResult:
        attributes = {telemetry.GEN_AI_OPERATION: "execute_tool", telemetry.GEN_AI_TOOL: tool_call.tool}
        with telemetry.span(f"execute_tool {tool_call.tool}", attributes=attributes):
            # No root job, so there is no audit log to write to.
            execution = Execution(instance_id=new_id(), root_id="", deadline=until - _REPLY_MARGIN)
            return await self._engine.execute(tool_call, execution, listener)

    async def _with_budget(self, request: tool_pb2.ExecuteToolRequest, tool_call: ToolCall, until: int) -> ToolCall:
        """The call with a budget: the one it names, else a new one under the tenant."""
        if tool_call.budget_id:
            return tool_call
        limit = from_amount(request.max_cost, "max_cost") if request.HasField("max_cost") else _DEFAULT_COST
        if not 0 < limit <= _MAX_COST:
            raise invalid_field("max_cost", "must be more than 0 and at most 10 USD")
        budget = budget_pb2.NewBudget(
            id=new_id(),
            tenant=request.tenant or _DEFAULT_TENANT,
            limit=to_amount(limit),
            conclusion_reserve=to_amount(limit // _CONCLUSION_PART),
            deadline=to_timestamp(until),
            tool=tool_call.tool,
        )
        await call(self._budgets.CreateBudgets, budget_pb2.CreateBudgetsRequest(budgets=[budget]), patience=_PATIENCE)
        return replace(tool_call, budget_id=budget.id)


class _QueueListener:
    """Hands on what a call tells, to the stream that its caller reads."""

    def __init__(self) -> None:
        self._responses: asyncio.Queue[tool_pb2.ExecuteToolResponse | None] = asyncio.Queue()

    def progress(self, progress: Progress) -> None:
        self._responses.put_nowait(tool_pb2.ExecuteToolResponse(progress=progress_to(progress)))

    def text(self, piece: str) -> None:
        self._responses.put_nowait(tool_pb2.ExecuteToolResponse(text_delta=piece))

    def end(self, _: asyncio.Task[ToolResult]) -> None:
        self._responses.put_nowait(None)

    async def responses(self) -> AsyncIterator[tool_pb2.ExecuteToolResponse]:
        while (response := await self._responses.get()) is not None:
            yield response


def _deadline_of(request: tool_pb2.ExecuteToolRequest) -> int:
    longest = from_duration(request.max_duration) if request.HasField("max_duration") else _DEFAULT_MICROS
    until = now() + longest
    held = deadline.current()
    return until if held is None else min(until, held)
