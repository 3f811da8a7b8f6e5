"""The front of the house: takes a request in, lets its events be seen, and cancels it. It keeps nothing itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2

from coordinator_svc.attendance import Attendance
from coordinator_svc.coordination import Parts
from coordinator_svc.ending import result_of
from coordinator_svc.events import EventTranslator
from coordinator_svc.jobs_client import new_job
from coordinator_svc.requests import KIND, RequestSpec, request_deadline
from svc_common import deadline, telemetry
from svc_common.endings import EndReason, JobState
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS, now
from svc_common.worker import Worker

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SHORTEST_MICROS = 200_000
_ABANDON_SECONDS = 10.0


class Front:
    def __init__(self, parts: Parts, worker: Worker) -> None:
        self._settings = parts.settings
        self._parts = parts
        self._jobs_client = parts.jobs_client
        self._worker = worker
        self._attendance = Attendance(self._abandon)
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def attended(self, spec: RequestSpec, reattach_within: float) -> AsyncIterator[jobs_pb2.Job]:
        """The request's root job, new or made by an earlier sending, while its caller listens: it is cancelled when all its callers
        have left and none is back after `reattach_within` seconds, unless it is to go on by itself."""
        # A task of its own: once the job may be made, it must become known, whether the caller is still there or not.
        accepting = self._in_background(self._accept(spec))
        try:
            root = await asyncio.shield(accepting)
        except asyncio.CancelledError:
            if not spec.continue_when_detached:
                accepting.add_done_callback(partial(self._missed, spec.id, reattach_within))
            raise
        if spec.continue_when_detached:
            yield root
            return
        with self._attendance.caller(spec.id, reattach_within):
            yield root

    def _missed(self, request_id: str, reattach_within: float, accepting: asyncio.Task[jobs_pb2.Job]) -> None:
        if not accepting.cancelled() and accepting.exception() is None:
            self._attendance.missed(request_id, reattach_within)

    async def _accept(self, spec: RequestSpec) -> jobs_pb2.Job:
        """Makes the request's root job, or finds the one that an earlier sending of it made."""
        catalogue = await self._parts.tools.catalogue()
        if spec.workspace not in catalogue.workspaces:
            raise ServiceError(ErrorReason.WORKSPACE_NOT_FOUND, f"no workspace is named {spec.workspace!r}")
        if spec.previous_request_id:
            previous = await self.find(spec.previous_request_id)
            if previous.tenant != spec.tenant:
                raise _not_found(spec.previous_request_id)
            if not JobState(previous.state).is_terminal:
                words = f"the request {previous.id!r} has not ended yet, so that it cannot be continued"
                raise ServiceError(ErrorReason.REQUEST_NOT_ENDED, words)
        due = request_deadline(
            spec,
            now(),
            deadline.current(),
            int(self._settings.default_seconds * MICROS),
            int(self._settings.reply_margin_seconds * MICROS),
        )
        if due - now() < _SHORTEST_MICROS:
            raise ServiceError(ErrorReason.DEADLINE_EXCEEDED, "the deadline leaves no time to begin")
        job = new_job(
            spec.id,
            KIND,
            spec.to_json(),
            due,
            tenant=spec.tenant,
            priority=spec.priority,
            traceparent=telemetry.current_traceparent(),
            labels={"workspace": spec.workspace},
        )
        has_place = self._worker.running < self._settings.running_requests
        try:
            [created] = await self._jobs_client.create(
                [job],
                claim_for=self._worker.worker_id if has_place else "",
                max_unfinished=self._settings.max_requests,
                max_unfinished_of_tenant=self._settings.max_requests_of_tenant,
            )
        except ServiceError as error:
            if error.reason is ErrorReason.JOB_CONFLICT:
                raise ServiceError(
                    ErrorReason.REQUEST_CONFLICT, f"the id {spec.id!r} is taken by another request"
                ) from error
            raise
        if created.HasField("lease"):
            self._worker.adopt(created.lease)
            return created.lease.job
        return created.job

    @asynccontextmanager
    async def watched(self, request_id: str) -> AsyncIterator[jobs_pb2.Job]:
        """The root job of a request while somebody watches it. Raises REQUEST_NOT_FOUND."""
        root = await self.find(request_id)
        with self._attendance.watcher(request_id):
            yield root

    async def events(self, root: jobs_pb2.Job, after_sequence: int) -> AsyncIterator[coordinator_pb2.RequestEvent]:
        """The request's events after a sequence, to the last."""

        async def result() -> coordinator_pb2.RequestResult:
            return await self.result_of(await self._jobs_client.get(root.id))

        translator = EventTranslator(root, self._jobs_client.get_many, result)
        async for events in self._jobs_client.follow(root.id, after_sequence):
            for event in await translator.translate(events):
                yield event

    async def find(self, request_id: str) -> jobs_pb2.Job:
        """The root job of a request. Raises REQUEST_NOT_FOUND."""
        try:
            job = await self._jobs_client.get(request_id)
        except ServiceError as error:
            if error.reason is not ErrorReason.JOB_NOT_FOUND:
                raise
            raise _not_found(request_id) from error
        if job.kind != KIND:
            raise _not_found(request_id)
        return job

    async def list_requests(self, listing: jobs_pb2.ListJobsRequest) -> jobs_pb2.ListJobsResponse:
        return await self._jobs_client.list_jobs(listing)

    async def cancel(self, request_id: str) -> jobs_pb2.Job:
        """Ends the request and all its jobs; one that has ended stays as it is."""
        root = await self.find(request_id)
        if JobState(root.state).is_terminal:
            return root
        await self._jobs_client.abort([request_id], EndReason.CANCELLED, "the request was cancelled")
        return await self._jobs_client.get(request_id)

    async def result_of(self, root: jobs_pb2.Job) -> coordinator_pb2.RequestResult:
        return await result_of(self._jobs_client, self._parts.budgets, root)

    async def stop(self) -> None:
        """Leaves the requests of callers that this process is about to leave alone; waits for the cancels that are under way."""
        self._attendance.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _abandon(self, request_id: str) -> None:
        self._in_background(self._cancel_abandoned(request_id))

    async def _cancel_abandoned(self, request_id: str) -> None:
        try:
            # The caller's own deadline may be what made it leave.
            with deadline.lifted(_ABANDON_SECONDS):
                await self._jobs_client.abort([request_id], EndReason.CANCELLED, "the caller left")
        except ServiceError as error:
            # Its deadline will end it.
            logger.warning("request %s could not be cancelled: %s", request_id, error)

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that goes on when the one that began it is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _not_found(request_id: str) -> ServiceError:
    return ServiceError(ErrorReason.REQUEST_NOT_FOUND, f"no request has the id {request_id!r}")
