"""The invoice: what Bedrock would bill for each call, in tokens. Prices are no business of this endpoint.

A call refused before its response began costs nothing. Any other is billed for its whole input and its whole planned
answer, even if the client left, the connection broke or the stream failed midway: Bedrock goes on generating.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from local_bedrock.calls import Json, ModelCall, Usage
from svc_common.times import now


class CallState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    REFUSED = "refused"  # an error before the response began
    FAILED = "failed"  # the response began and broke: error frame or dropped connection
    DISCONNECTED = "disconnected"  # the client left first


@dataclass(frozen=True, slots=True)
class InvoiceRecord:
    """One call. `usage` is what is billed; while RUNNING, what is owed should the client leave now.

    `rule` names the script rule that answered, `error` the error the call ended with. Times are epoch microseconds: `start_time`
    when the call came in, `end_time` when its response had ended or its client was seen to have left, 0 while it is RUNNING.
    """

    call_id: str
    operation: str
    model_id: str
    service_tier: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    state: CallState = CallState.RUNNING
    usage: Usage = field(default_factory=Usage)
    error: str = ""
    rule: str = ""
    start_time: int = 0
    end_time: int = 0


class Invoice:
    """Records by call, in the order the calls came; beyond `max_records` the oldest fall off."""

    def __init__(self, max_records: int) -> None:
        self._records: dict[str, InvoiceRecord] = {}
        self._max_records = max_records

    def open(self, call_id: str, call: ModelCall) -> None:
        """A call has come in; nothing is owed for it yet."""
        record = InvoiceRecord(
            call_id, call.operation, call.model_id, call.service_tier, dict(call.metadata), start_time=now()
        )
        self._records[call_id] = record
        if len(self._records) > self._max_records:
            del self._records[next(iter(self._records))]

    def bill(self, call_id: str, usage: Usage, rule: str = "") -> None:
        """`usage` is owed from here on, whatever becomes of the connection."""
        if record := self._records.get(call_id):
            self._records[call_id] = replace(record, usage=usage, rule=rule)

    def close(self, call_id: str, state: CallState, error: str = "") -> None:
        """The call has ended."""
        if record := self._records.get(call_id):
            self._records[call_id] = replace(record, state=state, error=error, end_time=now())

    def records(self) -> list[InvoiceRecord]:
        return list(self._records.values())

    def clear(self) -> None:
        """Forget every record; calls still running are not recorded any more."""
        self._records.clear()


def billed_tokens(records: Iterable[InvoiceRecord]) -> dict[tuple[str, str], Usage]:
    """Sum of what is billed, keyed by (model id, service tier): multiply it by the price file."""
    totals: dict[tuple[str, str], Usage] = {}
    for record in records:
        key = (record.model_id, record.service_tier)
        totals[key] = totals.get(key, Usage()) + record.usage
    return totals


def to_json(records: Iterable[InvoiceRecord]) -> list[Json]:
    """What `GET /_local/invoice` answers under `records`."""
    return [asdict(record) for record in records]


def fetch_invoice(endpoint_url: str, timeout: float = 5.0) -> list[InvoiceRecord]:
    """The invoice of a running endpoint, over HTTP. Blocking, `timeout` in seconds. Raises OSError without an answer."""
    with urllib.request.urlopen(f"{endpoint_url}/_local/invoice", timeout=timeout) as response:
        records = json.load(response)["records"]
    return [
        InvoiceRecord(**{**record, "state": CallState(record["state"]), "usage": Usage(**record["usage"])})
        for record in records
    ]
