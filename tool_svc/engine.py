"""Executing one tool call: snapshot, cache, context, instance, checks. The same for jobs and for direct calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from llm.catalogue import Catalogue, Model
from llm.conversation import Conversation
from llm.instance import Host, InstanceResult, Task
from llm.tokens import compact_json, text_bytes
from svc_common.endings import EndReason
from svc_common.times import MICROS, now
from tool_svc.calls import Execution, Listener, Progress, Provenance, ToolCall, ToolResult
from tool_svc.context.material import PreparedContext
from tool_svc.context.request import ContextRequest
from tool_svc.files import WorkspaceFiles
from tool_svc.host import ToolHost
from tool_svc.output_paths import MAX_SOURCE_PATHS, check_paths
from tool_svc.preparation import ContextPreparation, PreparationFailed
from tool_svc.read_files import READ_FILES
from tool_svc.registry import RegisteredTool, ToolRegistry
from tool_svc.result_cache import ResultCache, result_key
from tool_svc.result_size import capped
from tool_svc.workspaces import WorkspaceSnapshot

# A model whose window leaves less than this gets so much all the same, and the instance trims what does not fit.
_LEAST_CONTEXT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every tool run, see `ToolServiceSettings`."""

    max_output_tokens: int
    max_context_tokens: int
    max_rounds: int
    max_result_bytes: int


class Instances(Protocol):
    """Who runs LLM instances: `llm.runner.LlmRunner`."""

    @property
    def catalogue(self) -> Catalogue: ...

    async def run(self, task: Task, host: Host, conversation: Conversation | None = None) -> InstanceResult: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an instance would be sent first."""

    context: PreparedContext
    system: str
    user: str


class ToolEngine:
    """Executes calls, any number at once; they share files and the result cache and nothing else."""

    def __init__(
        self,
        registry: ToolRegistry,
        files: WorkspaceFiles,
        contexts: ContextPreparation,
        instances: Instances,
        cache: ResultCache,
        limits: Limits,
    ) -> None:
        self._registry = registry
        self._files = files
        self._contexts = contexts
        self._instances = instances
        self._cache = cache
        self._limits = limits

    async def execute(self, call: ToolCall, execution: Execution, listener: Listener) -> ToolResult:
        """Executes a call, until its deadline at the latest.

        What goes wrong with money, time, the model or the preparation is data in the result. Raises ServiceError TOOL_NOT_FOUND,
        WORKSPACE_NOT_FOUND and INVALID_ARGUMENT for a call that makes no sense. Cancelled, it ends its instance.
        """
        registered = self._registry.checked(call)
        began = now()
        try:
            async with asyncio.timeout(max(0, execution.deadline - began) / MICROS) as limit:
                result = await self._answer(registered, call, execution, listener)
        except TimeoutError:
            if not limit.expired():
                raise
            result = _nothing(call, EndReason.TIMEOUT, "the deadline came before a model could answer")
        except PreparationFailed as error:
            result = _nothing(call, EndReason.INTERNAL_ERROR, error.message)
        return replace(result, provenance=replace(result.provenance, duration=now() - began))

    async def prepare(self, call: ToolCall, max_tokens: int) -> Prompt:
        """What the call's instance would be sent, its context in at most `max_tokens` (0: as in `execute`). Raises as that."""
        registered = self._registry.checked(call)
        async with self._snapshot(call) as snapshot:
            call = await self._settled(registered, call, snapshot)
            context = await self._context(registered, call, snapshot, max_tokens)
        template = registered.template
        return Prompt(context, template.system, "\n\n".join(template.render(context.values)))

    @asynccontextmanager
    async def _snapshot(self, call: ToolCall) -> AsyncIterator[WorkspaceSnapshot]:
        """The files that a call is about. Directories without any were made up by a model; then its request's whole scope is."""
        async with AsyncExitStack() as stack:
            snapshot = await stack.enter_async_context(
                self._files.snapshot(call.workspace, call.narrowed_scope, id_=call.snapshot_id)
            )
            if not snapshot.files_total:
                snapshot = await stack.enter_async_context(
                    self._files.snapshot(call.workspace, call.scope, id_=call.snapshot_id)
                )
            yield snapshot

    async def _answer(
        self, registered: RegisteredTool, call: ToolCall, execution: Execution, listener: Listener
    ) -> ToolResult:
        """The stored result of the same call on the same files, or a new one."""
        listener.progress(Progress("looking for changed files"))
        async with self._snapshot(call) as snapshot:
            call = await self._settled(registered, call, snapshot)
            key = result_key(
                {
                    "tool": call.tool,
                    "template": registered.template.content_hash,
                    "models": [model.id for model in self._models(registered)],
                    "limits": asdict(self._limits),
                    "parameters": call.parameters,
                    "workspace": call.workspace,
                    "scope": [call.scope.include_patterns, call.scope.directories, call.scope.exclude_patterns],
                    "snapshot": snapshot.id,
                }
            )
            return await self._cache.get_or_run(
                key,
                lambda: self._run(registered, call, snapshot, execution, listener),
                may_keep=lambda: not snapshot.has_differed,
            )

    async def _settled(self, registered: RegisteredTool, call: ToolCall, snapshot: WorkspaceSnapshot) -> ToolCall:
        return replace(call, parameters=await self._files.run(registered.tool.settled, snapshot, call.parameters))

    async def _run(
        self,
        registered: RegisteredTool,
        call: ToolCall,
        snapshot: WorkspaceSnapshot,
        execution: Execution,
        listener: Listener,
    ) -> ToolResult:
        listener.progress(Progress("preparing the context", 0, snapshot.files_total))
        context = await self._context(registered, call, snapshot)
        host = ToolHost(self._files, snapshot, listener, context.included)
        host.report("waiting for the model")
        task = Task(
            instance_id=execution.instance_id,
            request_id=call.request_id,
            root_id=execution.root_id,
            budget_id=call.budget_id,
            role=self._role(registered),
            template=registered.template,
            values=context.values,
            tools=(READ_FILES,),
            deadline=execution.deadline,
            max_rounds=self._limits.max_rounds,
            max_output_tokens=self._limits.max_output_tokens,
            response_schema=registered.template.response_schema,
            caller=call.caller,
            priority=execution.priority,
        )
        instance = await self._instances.run(task, host)
        return capped(_result(registered, snapshot, context, host.given_paths, instance), self._limits.max_result_bytes)

    async def _context(
        self, registered: RegisteredTool, call: ToolCall, snapshot: WorkspaceSnapshot, max_tokens: int = 0
    ) -> PreparedContext:
        budget = max_tokens or self._context_tokens(registered)
        request = ContextRequest(call.parameters.get("query", ""), budget, call.parameters)
        return await self._contexts.prepare(registered.tool, call.workspace, snapshot, request)

    def _context_tokens(self, registered: RegisteredTool) -> int:
        """Tokens of prepared context that leave the tool's first model room for all the rest."""
        model = self._models(registered)[0]
        template = registered.template
        schemas = compact_json([template.response_schema, READ_FILES.input_schema])
        fixed = text_bytes(template.system) + text_bytes(template.user_format) + text_bytes(schemas)
        answers = 2 * min(self._limits.max_output_tokens, model.max_output)
        room = model.context_window - answers - int(fixed / model.bytes_per_token)
        return max(_LEAST_CONTEXT_TOKENS, min(self._limits.max_context_tokens, room))

    def _models(self, registered: RegisteredTool) -> Sequence[Model]:
        return self._instances.catalogue.models_for(self._role(registered))

    def _role(self, registered: RegisteredTool) -> str:
        """A tool may have models of its own in the catalogue; else those of its role serve it."""
        tool = registered.tool
        return tool.name if tool.name in self._instances.catalogue.roles else tool.model_role


def _result(
    registered: RegisteredTool,
    snapshot: WorkspaceSnapshot,
    context: PreparedContext,
    given_paths: Collection[str],
    instance: InstanceResult,
) -> ToolResult:
    """What an instance ended with, its paths checked against the workspace."""
    checked = check_paths(instance.output or {}, {*snapshot.view.files, *given_paths}, registered.tool.new_path_fields)
    return ToolResult(
        tool=registered.tool.name,
        output=None if instance.output is None else checked.output,
        text=instance.text,
        is_partial=instance.is_partial,
        reason=instance.reason,
        error_message=instance.message,
        missing=instance.missing,
        provenance=Provenance(
            model_ids=instance.model_ids,
            tokens=instance.usage,
            cost=instance.cost,
            files_processed=len(given_paths),
            files_total=snapshot.files_total,
            snapshot_id=snapshot.id,
            template_hash=registered.template.content_hash,
            model_calls=instance.model_calls,
            removed_paths=checked.removed,
            source_paths=checked.paths or context.included[:MAX_SOURCE_PATHS],
            is_truncated=instance.is_truncated,
            files_left_out=context.left_out_count,
        ),
    )


def _nothing(call: ToolCall, reason: EndReason, message: str) -> ToolResult:
    """The result of a call that ended before its instance had begun or answered."""
    missing = ("all of it; ask again with more time or a narrower scope",)
    return ToolResult(tool=call.tool, is_partial=True, reason=reason, error_message=message, missing=missing)
