"""One question is one trace, across gRPC and across the queue."""

from __future__ import annotations

from svc_common import telemetry
from tests.scenarios.conftest import OpenHouse
from tests.scenarios.scripts import ANSWER, PLAN, TOOLS
from tests.support.traces import recorded_spans, trace_id


async def test_a_question_is_one_trace_from_the_client_to_every_model_call(open_house: OpenHouse) -> None:
    with recorded_spans() as spans:
        async with open_house(PLAN, TOOLS, ANSWER) as opened:
            with telemetry.span("the client's own"):
                expected = telemetry.current_trace_id()
                events = [event async for event in opened.client.ask("Where?")]
        finished = spans.get_finished_spans()
    names = [span.name for span in finished if trace_id(span) == expected]
    assert "dbp.coordinator.v1.CoordinatorService/ProcessRequest" in names
    assert "coordinate" in names
    assert names.count("chat amazon.nova-lite-v1:0") == 4
    assert "execute_tool coordinator_get_codebase_context" in names
    assert "execute_tool coordinator_get_documentation_context" in names
    assert events[-1].result.metadata.trace_id == expected
    models = [span for span in finished if span.name.startswith("chat ")]
    assert all((span.attributes or {}).get(telemetry.GEN_AI_OUTPUT_TOKENS) for span in models)
