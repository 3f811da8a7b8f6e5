"""What the coordinator LLM came to, as far as its own words go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm.instance import InstanceResult
from llm.tokens import compact_json
from svc_common.endings import EndReason
from svc_common.errors import ErrorReason, ServiceError


@dataclass(frozen=True)
class Answer:
    """`output` is the answer as an object, if it was to be one; `missing` what could not be done and how to get it."""

    text: str = ""
    output: dict[str, Any] | None = None
    is_partial: bool = True
    reason: EndReason = EndReason.NONE
    message: str = ""
    missing: Sequence[str] = ()
    model_ids: Sequence[str] = ()
    rounds: int = 0
    citations: Sequence[str] = ()
    snapshot_id: str = ""
    template_hash: str = ""
    trace_id: str = ""


def answer_of(result: InstanceResult, said: str, not_run: Mapping[str, ServiceError]) -> Answer:
    """The answer of an instance. `said` is what of it was streamed; `not_run` are tools of which a call left no job."""
    reason, message = result.reason, result.message
    if not reason and not_run:
        error = next(iter(not_run.values()))
        is_late = error.reason is ErrorReason.DEADLINE_EXCEEDED
        reason, message = EndReason.TIMEOUT if is_late else EndReason.INTERNAL_ERROR, error.message
    missing = [f"{tool}: not run to its end ({error.message}); ask for it alone" for tool, error in not_run.items()]
    return Answer(
        text=result.text if result.output is None else _json_text(result.output, said),
        output=None if result.output is None else dict(result.output),
        is_partial=reason is not EndReason.NONE,
        reason=reason,
        message=message,
        missing=[*result.missing, *missing],
        model_ids=result.model_ids,
        rounds=result.rounds,
    )


def never_begun(error: ServiceError) -> Answer:
    """Of a request for which a service did not answer as long as there was time."""
    missing = ("everything: ask again when the service is back",)
    return Answer(reason=EndReason.INTERNAL_ERROR, message=error.message, missing=missing)


def _json_text(output: Mapping[str, Any], said: str) -> str:
    """The object as text: as it was streamed, if what was streamed is it."""
    try:
        is_said = json.loads(said) == output
    except ValueError:
        is_said = False
    return said if is_said else compact_json(output)
