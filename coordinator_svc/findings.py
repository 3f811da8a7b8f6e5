"""What the coordinator LLM is told of results: those of its tools, and those of the request that this one continues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbp.coordinator.v1 import coordinator_pb2
from dbp.tool.v1 import tool_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from coordinator_svc.results import ToolJob
from llm.instance import ToolOutcome
from llm.tokens import compact_json
from svc_common.errors import ServiceError
from svc_common.texts import shortened

# What one result may take of the coordinator's context; the runner trims further where its model needs it.
_RESULT_BYTES = 24_000
# What all findings of an earlier request may take together.
_PREVIOUS_BYTES = 24_000


def job_outcome(job: ToolJob) -> ToolOutcome:
    """What a job found, in full or in part, else why it found nothing."""
    result = job.result
    if result.output.fields or result.text:
        return ToolOutcome(
            {
                "is_partial": job.job.is_partial or result.is_partial,
                "result": _shown(result.output, result.text, _RESULT_BYTES),
                "missing": list(result.missing),
                "files_seen": f"{result.metadata.files_processed} of {result.metadata.files_total}",
                "source_paths": list(result.metadata.source_paths),
            }
        )
    if job.text:
        return ToolOutcome({"is_partial": True, "result": job.text, "missing": [f"cut short: {job.why}"]})
    return failed_outcome(f"no result: {job.why}")


def error_outcome(error: ServiceError, text: str) -> ToolOutcome:
    """Of a call whose job could not be started, or not be asked for its result; `text` is what it had put out."""
    why = f"the tool could not be run to its end: {error.message}"
    return ToolOutcome({"is_partial": True, "result": text, "missing": [why]}) if text else failed_outcome(why)


def files_outcome(response: tool_pb2.ReadFilesResponse) -> ToolOutcome:
    return ToolOutcome({"files": [MessageToDict(file) for file in response.files], "missing": list(response.missing)})


def failed_outcome(why: str) -> ToolOutcome:
    return ToolOutcome({"error": why}, is_error=True)


def with_limits(outcome: ToolOutcome, left: str) -> ToolOutcome:
    """The outcome with what is left of the request's limits, for the LLM to plan by."""
    content: Mapping[str, Any] = outcome.content if isinstance(outcome.content, Mapping) else {"text": outcome.content}
    return ToolOutcome({**content, "left_of_limits": left}, outcome.is_error)


def previous_request(query: str, result: coordinator_pb2.RequestResult) -> str:
    """Question, answer and findings of a request, one JSON document per line; findings share their room evenly."""
    lines = [compact_json({"question": query, "answer": result.answer})]
    share = _PREVIOUS_BYTES // max(1, len(result.job_results))
    for found in result.job_results:
        shown = _shown(found.output, found.text, share)
        lines.append(
            compact_json({"job": found.job_id, "tool": found.tool, "is_partial": found.is_partial, "result": shown})
        )
    return "\n".join(lines)


def _shown(output: Struct, text: str, max_bytes: int) -> Any:
    """An output as the object it is or, where it is too long for that, as text that is cut."""
    if not output.fields:
        return shortened(text, max_bytes)
    shown = MessageToDict(output)
    written = compact_json(shown)
    return shown if len(written.encode()) <= max_bytes else shortened(written, max_bytes)
