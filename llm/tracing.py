"""Spans of an LLM instance; attribute names are in `svc_common.telemetry`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

from llm.instance import Task, ToolUse
from svc_common import telemetry


@contextmanager
def tool_span(use: ToolUse) -> Iterator[Span]:
    """Around the execution of one tool call, by whoever runs it."""
    attributes = {telemetry.GEN_AI_OPERATION: "execute_tool", telemetry.GEN_AI_TOOL: use.name}
    with telemetry.span(f"execute_tool {use.name}", attributes=attributes) as span:
        yield span


@contextmanager
def instance_span(task: Task) -> Iterator[Span]:
    """Around one run of an instance."""
    attributes = {
        telemetry.GEN_AI_OPERATION: "invoke_agent",
        telemetry.GEN_AI_AGENT: task.role,
        telemetry.REQUEST_ID: task.request_id,
        telemetry.JOB_ID: task.instance_id,
    }
    with telemetry.span(f"invoke_agent {task.role}", attributes=attributes) as span:
        yield span


@contextmanager
def model_span(model_id: str, max_tokens: int) -> Iterator[Span]:
    """Around one attempt at a model call."""
    attributes: dict[str, AttributeValue] = {
        telemetry.GEN_AI_OPERATION: "chat",
        telemetry.GEN_AI_PROVIDER: telemetry.BEDROCK,
        telemetry.GEN_AI_REQUEST_MODEL: model_id,
        telemetry.GEN_AI_MAX_TOKENS: max_tokens,
    }
    with telemetry.span(f"chat {model_id}", kind=SpanKind.CLIENT, attributes=attributes) as span:
        yield span
