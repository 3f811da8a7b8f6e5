"""The composition root of jobs_svc."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from jobs_svc.counters import Counters
from jobs_svc.queue import JobQueue
from jobs_svc.servicer import JobsServicer
from jobs_svc.settings import JobsSettings
from jobs_svc.store import Store
from jobs_svc.sweeper import Sweeper
from jobs_svc.transaction import Changes, Operation
from svc_common.group_commit import GroupCommitter
from svc_common.server import GrpcServer, StartupError, run_service, service_name
from svc_common.store import Database, migrate, open_engine
from svc_common.tasks import supervised
from svc_common.times import Clock, now

MIGRATIONS = Path(__file__).with_name("migrations")


class JobsService:
    """A started jobs_svc. `start` makes one."""

    def __init__(self, settings: JobsSettings, clock: Clock) -> None:
        try:
            self._database = Database(open_engine(settings.database_url))
        except ValueError as error:
            raise StartupError(str(error)) from error
        self._loop = asyncio.get_running_loop()
        policy = settings.policy()
        store = Store(self._database, policy, clock, self._committed)
        self._committer: GroupCommitter[Operation, Any] = GroupCommitter(store.execute, name="jobs-commit")
        self._queue = JobQueue(self._committer, store.reads, clock, Counters())
        self._sweeper = Sweeper(self._committer, store.reads, clock)
        self._server = GrpcServer(settings)
        self._tasks: list[asyncio.Task[None]] = []
        servicer = JobsServicer(self._queue, policy)
        jobs_pb2_grpc.add_JobsServiceServicer_to_server(servicer, self._server.grpc_server)

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self) -> None:
        await asyncio.to_thread(migrate, self._database.engine, MIGRATIONS)
        await self._queue.recount()
        self._tasks = [asyncio.create_task(supervised("sweeper", self._sweeper.run))]
        await self._server.start([service_name(jobs_pb2, "JobsService")])

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


async def start(settings: JobsSettings, clock: Clock = now) -> JobsService:
    """Migrates the store, listens and serves. Raises StartupError when the URL or the address cannot be used."""
    service = JobsService(settings, clock)
    await service.start()
    return service


def main() -> None:
    run_service("jobs_svc", JobsSettings, start)
