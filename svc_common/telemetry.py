"""Traces: OpenTelemetry, with every name we use in one place.

Names of spans and attributes follow the OpenTelemetry semantic conventions 1.37 for RPC and, in development there, GenAI. Context
crosses gRPC in the `traceparent` header and the queue in `Job.traceparent` (W3C Trace Context).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

TRACEPARENT = "traceparent"

RPC_SYSTEM = "rpc.system"
RPC_SERVICE = "rpc.service"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.grpc.status_code"
GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_AGENT = "gen_ai.agent.name"
GEN_AI_TOOL = "gen_ai.tool.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
BEDROCK = "aws.bedrock"
REQUEST_ID = "dbp.request.id"
JOB_ID = "dbp.job.id"
JOB_ATTEMPT = "dbp.job.attempt"
COST_PICO_USD = "dbp.cost.pico_usd"

_propagator = TraceContextTextMapPropagator()


def configure(service: str, traces: str, log_level: str) -> None:
    """Sets up logging and, unless `traces` is "none", the process's tracer provider. Called once, by the composition root."""
    logging.basicConfig(
        level=log_level, format=f"%(asctime)s {service} %(levelname)s %(name)s: %(message)s", force=True
    )
    if traces == "none":
        return
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    if traces == "console":
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    else:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def is_recording() -> bool:
    """Whether this process has a tracer provider, so that spans go anywhere."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def tracer() -> trace.Tracer:
    return trace.get_tracer("dbp")


def current_traceparent() -> str:
    """The W3C `traceparent` of the current span, or "" outside of any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(TRACEPARENT, "")


def current_trace_id() -> str:
    """The trace id in hex, or "" when nothing is traced."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    traceparent: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """A span around a block: child of the given `traceparent`, else of the current span. An exception marks it as failed;
    a cancellation is recorded as such."""
    with open_span(name, kind=kind, traceparent=traceparent, attributes=attributes) as opened, current(opened):
        yield opened


@contextmanager
def open_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    traceparent: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """Like `span`, but does not make it the current one: for generators, which may be closed in another context."""
    context = _propagator.extract({TRACEPARENT: traceparent}) if traceparent else None
    opened = tracer().start_span(name, context=context, kind=kind, attributes=attributes)
    try:
        yield opened
    except BaseException as error:
        opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
        opened.set_attribute("error.type", type(error).__name__)
        raise
    finally:
        opened.end()


def current(opened: Span) -> AbstractContextManager[Span]:
    """Makes a span the current one for a block."""
    return trace.use_span(opened, record_exception=False, set_status_on_exception=False)
