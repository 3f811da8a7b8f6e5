"""Getting audit records to jobs_svc, in order, without making the work wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from svc_common import deadline
from svc_common.channel import AWAY, call
from svc_common.errors import ErrorReason, ServiceError
from svc_common.ids import new_id

_log = logging.getLogger(__name__)
_BATCH = 100
_BATCH_BYTES = 4_000_000
_RPC_SECONDS = 5.0
# A restart of jobs_svc takes some seconds, and longer where a new place has to be found for it.
_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.5
_TRANSIENT = AWAY | {ErrorReason.OVERLOADED, ErrorReason.DEADLINE_EXCEEDED}


class AuditSink(Protocol):
    """Where records go."""

    async def append(self, root_id: str, job_id: str, records: Sequence[str], append_id: str) -> None:
        """Appends records of one job to its root's log, unless it did under this id before. Raises ServiceError."""
        ...


class JobsAuditSink:
    """Records kept by jobs_svc."""

    def __init__(self, stub: jobs_pb2_grpc.JobsServiceAsyncStub) -> None:
        self._stub = stub

    async def append(self, root_id: str, job_id: str, records: Sequence[str], append_id: str) -> None:
        request = jobs_pb2.AppendAuditRecordsRequest(
            root_id=root_id,
            records=[jobs_pb2.AuditRecord(job_id=job_id, record_json=record) for record in records],
            append_id=append_id,
        )
        await call(self._stub.AppendAuditRecords, request, timeout=_RPC_SECONDS)


class AuditTrail:
    """The records of one run. They are sent by a task in the order they were added."""

    def __init__(self, sink: AuditSink | None, root_id: str, job_id: str) -> None:
        self._sink = sink if root_id else None
        self._root_id = root_id
        self._job_id = job_id
        self._pending: deque[str] = deque()
        self._sending: asyncio.Task[None] | None = None

    def add(self, record: Callable[[], str]) -> None:
        """Adds the record that the function makes; it is not made when none are kept."""
        if self._sink is None:
            return
        self._pending.append(record())
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send(self._sink))

    @property
    def sending(self) -> asyncio.Task[None] | None:
        """The task to wait for (shielded) until all that was added is kept."""
        return self._sending

    async def _send(self, sink: AuditSink) -> None:
        while batch := _first_batch(self._pending):
            try:
                await self._append(sink, batch)
            except ServiceError as error:
                # The work is not worth less for it, but whoever reads the log must know why it has a gap.
                _log.error("request %s: %d audit records could not be kept: %s", self._root_id, len(batch), error)
            for _ in batch:
                self._pending.popleft()

    async def _append(self, sink: AuditSink, batch: Sequence[str]) -> None:
        append_id = new_id()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _PATIENCE_SECONDS
        while True:
            try:
                with deadline.lifted(_RPC_SECONDS):
                    return await sink.append(self._root_id, self._job_id, batch, append_id)
            except ServiceError as error:
                if error.reason not in _TRANSIENT or loop.time() > give_up:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)


def _first_batch(records: Sequence[str]) -> list[str]:
    """As many of the records, from the first on, as one message may hold; at least one, if there is one."""
    batch: list[str] = []
    left = _BATCH_BYTES
    for record in records:
        left -= len(record.encode())
        if batch and (left < 0 or len(batch) == _BATCH):
            break
        batch.append(record)
    return batch
