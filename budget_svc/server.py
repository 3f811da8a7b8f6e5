"""The composition root of budget_svc."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc

from budget_svc.book import News, Policy
from budget_svc.keeper import Intervals, Keeper
from budget_svc.prices import BUNDLED, PriceFileError, load_prices
from budget_svc.rates import Quotas
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
            self._database = Database(open_engine(settings.database_url, pooled=settings.pooled))
        except (PriceFileError, ValueError) as error:
            raise StartupError(str(error)) from error
        self._loop = asyncio.get_running_loop()
        policy = Policy(settings.tenant_terms(), Quotas(settings.quotas(), prices.listed_id))
        store = LedgerStore(self._database, policy, clock, self._committed)
        self._committer = GroupCommitter(store.execute, name="budget-commit")
        intervals = Intervals(
            sweep=settings.sweep_seconds,
            poll=settings.poll_seconds,
            fold=settings.fold_seconds,
            retention_days=settings.retention_days,
        )
        self.keeper = Keeper(self._committer, self._database, clock, intervals)
        self._server = GrpcServer(settings)
        budget_pb2_grpc.add_BudgetServiceServicer_to_server(
            BudgetServicer(self.keeper, prices, clock), self._server.grpc_server
        )

    @property
    def port(self) -> int:
        return self._server.port

    async def _start(self) -> None:
        await asyncio.to_thread(migrate, self._database.engine, MIGRATIONS)
        await self._server.start([service_name(budget_pb2, "BudgetService")])
        self.keeper.start()

    async def stop(self) -> None:
        """Sends away who waits or watches, lets running calls end, and commits what they asked for."""
        await self._server.set_not_serving()
        await self.keeper.stop()
        await self._server.stop()
        await self._committer.close()
        self._database.close()

    def _committed(self, news: News) -> None:
        # In the writing thread.
        self._loop.call_soon_threadsafe(self.keeper.announce, news)


async def start(settings: BudgetSettings, clock: Clock = now) -> BudgetService:
    """Migrates the store, listens and serves. Raises StartupError when a price file, URL or address cannot be used."""
    service = BudgetService(settings, clock)
    await service._start()
    return service


def main() -> None:
    run_service("budget_svc", BudgetSettings, start)
