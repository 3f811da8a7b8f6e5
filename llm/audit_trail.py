"""Getting audit records to jobs_svc, in order, without making the work wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from svc_common import deadline
from svc_common.channel import call
from svc_common.errors import ServiceError

_log = logging.getLogger(__name__)
_BATCH = 100
_SECONDS = 30.0


class AuditSink(Protocol):
    """Where records go."""

    async def append(self, root_id: str, job_id: str, records: Sequence[str]) -> None:
        """Appends records of one job to its root's log. Raises ServiceError."""
        ...


class JobsAuditSink:
    """Records kept by jobs_svc. `patience` is how many seconds a service that is away is waited for."""

    def __init__(self, stub: jobs_pb2_grpc.JobsServiceAsyncStub, *, patience: float) -> None:
        self._stub = stub
        self._patience = patience

    async def append(self, root_id: str, job_id: str, records: Sequence[str]) -> None:
        request = jobs_pb2.AppendAuditRecordsRequest(
            root_id=root_id,
            records=[jobs_pb2.AuditRecord(job_id=job_id, record_json=record) for record in records],
        )
        await call(self._stub.AppendAuditRecords, request, timeout=5.0, patience=self._patience)


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
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
            try:
                with deadline.lifted(_SECONDS):
                    await sink.append(self._root_id, self._job_id, batch)
            except ServiceError as error:
                # The work is not worth less for it, but whoever reads the log must know why it has a gap.
                _log.error("request %s: %d audit records could not be kept: %s", self._root_id, len(batch), error)
