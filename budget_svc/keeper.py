"""The keeper of the ledger: what the service does with each operation, and what it does on its own."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from budget_svc.book import Outcome
from budget_svc.budgets import Budget
from budget_svc.charges import Charge
from budget_svc.operations import AdjustBudget, ChargeOperation, CreateBudgets, Expire, Operation, Reserve
from budget_svc.store import lapsed_charges, read_budget
from svc_common.errors import ErrorReason, ServiceError
from svc_common.group_commit import GroupCommitter
from svc_common.store import Database
from svc_common.times import Clock

logger = logging.getLogger(__name__)

_SWEEP_BATCH = 500


class Keeper:
    """Owns the committer and the sweeper of ended leases. `run` must be running for leases to end by themselves."""

    def __init__(
        self, committer: GroupCommitter[Operation, Outcome], database: Database, clock: Clock, *, sweep_seconds: float
    ) -> None:
        self._committer = committer
        self._database = database
        self._clock = clock
        self._sweep_seconds = sweep_seconds

    async def create(self, operation: CreateBudgets) -> list[Budget]:
        return cast("list[Budget]", (await self._committer.submit(operation)).value)

    async def adjust(self, operation: AdjustBudget) -> Budget:
        return cast(Budget, (await self._committer.submit(operation)).value)

    async def charge(self, operation: Reserve | ChargeOperation) -> Charge:
        return cast(Charge, (await self._committer.submit(operation)).value)

    async def budget(self, budget_id: str) -> Budget:
        budget = await self._database.read(lambda connection: read_budget(connection, budget_id))
        if budget is None:
            raise ServiceError(
                ErrorReason.BUDGET_NOT_FOUND, f"no budget {budget_id!r}", metadata={"budget_id": budget_id}
            )
        return budget

    async def sweep(self) -> int:
        """Ends the leases whose time has come; returns how many there were."""
        lapsed = await self._database.read(lambda connection: lapsed_charges(connection, self._clock(), _SWEEP_BATCH))
        await asyncio.gather(*(self._committer.submit(Expire(charge_id)) for charge_id in lapsed))
        return len(lapsed)

    async def run(self) -> None:
        """Sweeps until cancelled. A store that is away is tried again."""
        while True:
            try:
                more = await self.sweep() == _SWEEP_BATCH
            except ServiceError as error:
                logger.warning("ended leases wait: %s", error)
                more = False
            if not more:
                await asyncio.sleep(self._sweep_seconds)
