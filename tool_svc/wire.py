"""Between the messages of `dbp.tool.v1` and the objects of this service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbp.common.v1 import common_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from svc_common.money import to_amount
from svc_common.times import to_duration
from svc_common.tokens import to_token_usage
from tool_svc.calls import Progress, ToolCall, ToolResult
from tool_svc.workspace.reading import FileText
from tool_svc.workspace.scope import Scope


def call_from(message: tool_pb2.ToolCall) -> ToolCall:
    """Raises PATH_OUTSIDE_WORKSPACE for a scope that names a directory outside."""
    return ToolCall(
        tool=message.tool,
        workspace=message.workspace,
        parameters=_with_integers(MessageToDict(message.parameters)),
        scope=scope_from(message.scope),
        request_id=message.request_id,
        budget_id=message.budget_id,
        snapshot_id=message.snapshot_id,
        caller=message.caller,
    )


def scope_from(message: common_pb2.Scope) -> Scope:
    """Raises PATH_OUTSIDE_WORKSPACE for a scope that names a directory outside."""
    return Scope(
        include_patterns=tuple(message.include_patterns),
        directories=tuple(message.directories),
        exclude_patterns=tuple(message.exclude_patterns),
    )


def result_to(result: ToolResult) -> tool_pb2.ToolResult:
    facts = result.provenance
    return tool_pb2.ToolResult(
        tool=result.tool,
        output=None if result.output is None else struct(result.output),
        text=result.text,
        is_partial=result.is_partial,
        reason=common_pb2.EndReason.ValueType(result.reason),
        error_message=result.error_message,
        missing=result.missing,
        metadata=tool_pb2.ToolMetadata(
            model_ids=facts.model_ids,
            tokens=to_token_usage(facts.tokens),
            cost=to_amount(facts.cost),
            duration=to_duration(facts.duration),
            files_processed=facts.files_processed,
            files_total=facts.files_total,
            snapshot_id=facts.snapshot_id,
            template_hash=facts.template_hash,
            model_calls=facts.model_calls,
            is_cached=facts.is_cached,
            removed_paths=facts.removed_paths,
            source_paths=facts.source_paths,
            is_truncated=facts.is_truncated,
            files_left_out=facts.files_left_out,
        ),
    )


def progress_to(progress: Progress) -> tool_pb2.ToolProgress:
    return tool_pb2.ToolProgress(
        stage=progress.stage, files_processed=progress.files_processed, files_total=progress.files_total
    )


def file_to(file: FileText) -> tool_pb2.FileContent:
    last_modified = Timestamp()
    if file.last_modified is not None:
        last_modified.FromDatetime(file.last_modified)
    return tool_pb2.FileContent(
        path=file.path,
        content=file.content,
        exists=file.exists,
        size=file.size,
        last_modified=last_modified if file.exists else None,
        error=file.error or "",
        is_truncated=file.is_truncated,
        error_code=file.error_code or "",
    )


def struct(value: Mapping[str, Any]) -> Struct:
    message = Struct()
    message.update(value)
    return message


def _with_integers(value: Any) -> Any:
    """Struct knows only floating point numbers; whole ones become integers again, as JSON had them."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_integers(item) for item in value]
        case dict():
            return {key: _with_integers(item) for key, item in value.items()}
    return value
