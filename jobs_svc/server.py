"""The composition root of jobs_svc."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from externalscaler import externalscaler_pb2, externalscaler_pb2_grpc
from sqlalchemy import make_url

from jobs_svc.catch_up import CatchUp
from jobs_svc.low_water import LowWater
from jobs_svc.queue import JobQueue
from jobs_svc.scaler import ScalerServicer
from jobs_svc.servicer import JobsServicer
from jobs_svc.settings import JobsSettings
from jobs_svc.signals import Signals
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.sweeper import Sweeper
from jobs_svc.transaction import Changes, Operation
from jobs_svc.upkeep import Compactor, Retention
from svc_common.group_commit import GroupCommitter
from svc_common.server import GrpcServer, StartupError, run_service, service_name
from svc_common.store import Database, migrate, open_engine
from svc_common.tasks import supervised
from svc_common.times import MICROS, Clock, now


class JobsService:
    """A started jobs_svc. `start` makes one."""

    def __init__(self, settings: JobsSettings, clock: Clock) -> None:
        try:
            self._database = Database(open_engine(settings.database_url, pooled=settings.is_pooled))
        except ValueError as error:
            raise StartupError(str(error)) from error
        self._loop = asyncio.get_running_loop()
        policy = settings.policy()
        store = Store(self._database, policy, clock, self._committed)
        self._committer: GroupCommitter[Operation, Any] = GroupCommitter(store.execute, name="jobs-commit")
        self._queue = JobQueue(self._committer, store.reads, clock, policy)
        self._sweeper = Sweeper(self._committer, store.reads, clock)
        self._signals: Signals | None = None
        self._loops: dict[str, Callable[[], Awaitable[None]]] = {
            "sweeper": self._sweeper.run,
            "compactor": Compactor(self._committer, store.reads).run,
            "retention": Retention(
                self._committer,
                clock,
                keep=round(settings.retention_seconds * MICROS),
                interval_seconds=settings.retention_interval_seconds,
            ).run,
        }
        if not self._database.is_sqlite:
            self._join_replicas(settings, store.low_water, clock)
        self._server = GrpcServer(settings)
        self._tasks: list[asyncio.Task[None]] = []
        servicer = JobsServicer(self._queue, policy)
        jobs_pb2_grpc.add_JobsServiceServicer_to_server(servicer, self._server.grpc_server)
        scaler = ScalerServicer(self._queue.counters)
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(scaler, self._server.grpc_server)

    def _join_replicas(self, settings: JobsSettings, low_water: LowWater, clock: Clock) -> None:
        poll_seconds = settings.poll_seconds or (0.05 if settings.poll_only else 1.0)
        catch_up = CatchUp(self._queue, low_water, clock, poll_seconds=poll_seconds)
        self._loops["catch-up"] = catch_up.run
        if not settings.poll_only:
            url = make_url(settings.signals_database_url or settings.database_url).set(drivername="postgresql")
            self._signals = Signals(url.render_as_string(hide_password=False), catch_up.hint)
            self._queue.on_retire = self._signals.send_retired
            self._loops["signal sender"] = self._signals.run_sender
            self._loops["signal listener"] = self._signals.run_listener

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self) -> None:
        await asyncio.to_thread(migrate, self._database.engine, MIGRATIONS)
        await self._queue.recount()
        self._tasks = [asyncio.create_task(supervised(name, loop)) for name, loop in self._loops.items()]
        names = (service_name(jobs_pb2, "JobsService"), service_name(externalscaler_pb2, "ExternalScaler"))
        await self._server.start(names)

    async def stop(self) -> None:
        """Ends watches and waits, lets other calls finish, then closes the store."""
        await self._server.set_not_serving()
        self._queue.close()
        await self._server.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._committer.close()
        self._database.close()

    def _committed(self, changes: Changes) -> None:
        # In the writing thread. The loop runs this before it resumes the callers of the batch.
        self._loop.call_soon_threadsafe(self._publish, changes)

    def _publish(self, changes: Changes) -> None:
        self._queue.publish(changes)
        self._sweeper.expect(changes.next_wake)
        if self._signals:
            self._signals.send(changes)


async def start(settings: JobsSettings, clock: Clock = now) -> JobsService:
    """Migrates the store, listens and serves. Raises StartupError when the URL or the address cannot be used."""
    service = JobsService(settings, clock)
    try:
        await service.start()
    except BaseException:
        await service.stop()
        raise
    return service


def main() -> None:
    run_service("jobs_svc", JobsSettings, start)
