"""The audit log of a request: a record per model call and per message between instances, chained by hashes.

jobs_svc keeps the records and chains them as they come; `verify_chain` proves that none was changed, removed or put in between.
What was said is in a record only when a setting says so, with secrets masked; its hash always is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from llm.calls import Attempt
from llm.instance import InstanceResult, Task
from llm.masking import masked, masked_within

FIRST_HASH = "0" * 64
_MAX_BYTES = 240_000


class Chained(Protocol):
    """A kept record, as `dbp.jobs.v1.AuditRecord` has it."""

    @property
    def sequence(self) -> int: ...
    @property
    def job_id(self) -> str: ...
    @property
    def record_json(self) -> str: ...
    @property
    def previous_hash(self) -> str: ...
    @property
    def hash(self) -> str: ...


def verify_chain(records: Iterable[Chained]) -> int | None:
    """The sequence of the first record of a whole log that does not follow from those before it; None when all do."""
    previous = FIRST_HASH
    for expected, record in enumerate(records, start=1):
        linked = "\n".join((previous, str(expected), record.job_id, record.record_json))
        is_true = (
            record.sequence == expected
            and record.previous_hash == previous
            and record.hash == hashlib.sha256(linked.encode()).hexdigest()
        )
        if not is_true:
            return record.sequence
        previous = record.hash
    return None


def model_call_record(task: Task, attempt: Attempt, *, with_content: bool) -> str:
    """The record of one try at a model call, as canonical JSON."""
    request = {key: attempt.arguments[key] for key in ("system", "messages", "toolConfig") if key in attempt.arguments}
    record = {
        **_who(task, "model_call"),
        "model": attempt.model_id,
        "charge_id": attempt.charge_id,
        "outcome": attempt.outcome,
        "message": masked(attempt.message),
        "usage": None if attempt.usage is None else asdict(attempt.usage),
        "cost_pico_usd": attempt.cost,
        "start_time_us": attempt.start_time,
        "end_time_us": attempt.end_time,
    }
    return _with_content(record, {"request": request, "response": list(attempt.blocks)}, with_content)


def task_record(task: Task, *, with_content: bool) -> str:
    """The record of the message by which an instance was asked."""
    record = {**_who(task, "message"), "from": task.caller or "client", "to": task.instance_id}
    return _with_content(record, {"values": dict(task.values)}, with_content)


def result_record(task: Task, result: InstanceResult, *, with_content: bool) -> str:
    """The record of the message by which an instance answered."""
    record = {
        **_who(task, "message"),
        "from": task.instance_id,
        "to": task.caller or "client",
        "outcome": result.reason.name.lower() if result.is_partial else "complete",
        "usage": asdict(result.usage),
        "cost_pico_usd": result.cost,
    }
    output = None if result.output is None else dict(result.output)
    return _with_content(record, {"text": result.text, "output": output}, with_content)


def _who(task: Task, kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "request_id": task.request_id,
        "job_id": task.instance_id,
        "role": task.role,
        "template": task.template.name,
        "template_version": task.template.version,
        "template_hash": task.template.content_hash,
    }


def _with_content(record: Mapping[str, Any], content: Mapping[str, Any], is_kept: bool) -> str:
    spoken = _canonical(content)
    hashed = {**record, "content_hash": hashlib.sha256(spoken.encode()).hexdigest()}
    if not is_kept:
        return _canonical(hashed)
    whole = _canonical({**hashed, "content": masked_within(content)})
    if len(whole.encode()) <= _MAX_BYTES:
        return whole
    return _canonical({**hashed, "content_left_out_bytes": len(spoken.encode())})


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
