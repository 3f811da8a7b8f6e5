"""A model for requests that are to be cut at one of their stages; which one stands in the question: "cut at plan|jobs|answer"."""

from __future__ import annotations

import re
from typing import Any

from local_bedrock.backends.script import Fault, Reply, ToolCall
from local_bedrock.calls import ModelCall

CODEBASE, DOCUMENTATION = "coordinator_get_codebase_context", "coordinator_get_documentation_context"
ANSWER = "Payments are retried three times, in shop/orders.py."
_OUTPUTS: dict[str, dict[str, Any]] = {
    CODEBASE: {
        "relevant_files": [
            {"path": "shop/orders.py", "intent": "takes orders", "relevance_score": 1, "relevance_reason": "retries"}
        ]
    },
    DOCUMENTATION: {
        "relevant_documents": [{"path": "README.md", "relevance_score": 1}],
        "direct_answer": {"summary": "payments are retried", "source_documents": ["README.md"]},
    },
}
_STAGE = re.compile(r"cut at (plan|jobs|answer)")


def answer(call: ModelCall) -> Reply:
    found = _STAGE.search(" ".join(text for text in call.segments() if isinstance(text, str)))
    stage = found[1] if found else ""
    if call.template != "coordinator_main":
        return _of_tool(call.template, stage)
    is_regular = bool(call.offered_tools)  # a conclusion is offered none
    if is_regular and not call.tool_results:
        if stage == "plan":
            return Reply(text="never", fault=Fault(stall=True, after_chunks=0))
        query = {"query": f"retries, cut at {stage}" if stage else "retries"}
        return Reply(tools=tuple(ToolCall(name=name, input=query) for name in (CODEBASE, DOCUMENTATION)))
    if is_regular and stage == "answer":
        return Reply(text="Payments are retried. " * 200, chunk_chars=22, chunk_s=0.1)
    return Reply(text=ANSWER)


def _of_tool(name: str, stage: str) -> Reply:
    if name == DOCUMENTATION and stage == "jobs":
        return Reply(text="a beginning of a document", chunk_chars=11, fault=Fault(stall=True, after_chunks=1))
    return Reply(tools=(ToolCall(name="submit_result", input=_OUTPUTS[name]),))
