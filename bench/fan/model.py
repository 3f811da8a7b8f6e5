"""What the scripted endpoint answers for a fan-out: a plan of eight calls, eight results after 50 ms each, and an answer.

Named to the endpoint as `bench.fan.model:answer`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from bench.peers.load import TOOL_SECONDS, TOOLS
from local_bedrock.backends.script import Fault, Reply, ToolCall
from local_bedrock.calls import ModelCall

TOOL = "coordinator_get_documentation_context"
ENDLESS = "wait for ever"
RESULT: Mapping[str, Any] = {
    "relevant_documents": [{"path": "README.md", "relevance_score": 1}],
    "direct_answer": {"summary": "payments are retried", "source_documents": ["README.md"]},
}
ANSWER = "Payments are retried, see README.md."


def calls() -> list[tuple[str, dict[str, str]]]:
    """Ids and parameters of eight calls, none like another: identical ones would share one execution."""
    return [(uuid.uuid4().hex, {"query": f"payments {uuid.uuid4().hex}"}) for _ in range(TOOLS)]


def answer(call: ModelCall) -> Reply:
    if ENDLESS in call.last_user_text:
        return Reply(text="never", fault=Fault(stall=True))
    if call.template == TOOL:
        submit = ToolCall(name="submit_result", input=dict(RESULT))
        return Reply(tools=(submit,), first_token_s=TOOL_SECONDS, chunk_chars=10_000)
    if call.tool_results:
        return Reply(text=ANSWER, chunk_chars=10_000)
    return Reply(tools=tuple(ToolCall(name=TOOL, input=query) for _, query in calls()), chunk_chars=10_000)
