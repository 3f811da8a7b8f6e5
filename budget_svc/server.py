"""The composition root of budget_svc."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc

from budget_svc.keeper import Keeper
from budget_svc.prices import BUNDLED, PriceFileError, load_prices
from budget_svc.servicer import BudgetServicer
from budget_svc.settings import BudgetSettings
from budget_svc.store import LedgerStore
from svc_common.group_commit import GroupCommitter
from svc_common.server import GrpcServer, StartupError, run_service, service_name
from svc_common.store import Database, migrate, open_engine
from svc_common.times import Clock, now

MIGRATIONS = Path(__file__).with_name("migrations")


class BudgetService:
    """A started budget_svc. `start` makes one."""

    def __init__(self, settings: BudgetSettings, clock: Clock) -> None:
        try:
            prices = load_prices(settings.price_file or BUNDLED, settings.model_aliases)
            engine = open_engine(settings.database_url)
        except (PriceFileError, ValueError) as error:
            raise StartupError(str(error)) from error
        self._database = Database(engine)
        store = LedgerStore(self._database, settings.tenant_terms(), clock)
        self._committer = GroupCommitter(store.execute, name="budget-commit")
        self._keeper = Keeper(self._committer, self._database, clock, sweep_seconds=settings.sweep_seconds)
        self._server = GrpcServer(settings)
        budget_pb2_grpc.add_BudgetServiceServicer_to_server(
            BudgetServicer(self._keeper, prices), self._server.grpc_server
        )

    @property
    def port(self) -> int:
        return self._server.port

    async def _start(self) -> None:
        await asyncio.to_thread(migrate, self._database.engine, MIGRATIONS)
        await self._server.start([service_name(budget_pb2, "BudgetService")])
        self._sweeper = asyncio.create_task(self._keeper.run(), name="budget-sweeper")

    async def stop(self) -> None:
        await self._server.stop()
        self._sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeper
        await self._committer.close()
        self._database.close()


async def start(settings: BudgetSettings, clock: Clock = now) -> BudgetService:
    """Migrates the store, listens and serves. Raises StartupError when a price file, URL or address cannot be used."""
    service = BudgetService(settings, clock)
    await service._start()
    return service


def main() -> None:
    run_service("budget_svc", BudgetSettings, start)
