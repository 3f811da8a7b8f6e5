"""What the coordinator asks of budget_svc, with the patience to outlive its restarts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.tool.v1 import tool_pb2

from coordinator_svc.requests import RequestSpec
from svc_common.channel import call
from svc_common.errors import ServiceError
from svc_common.money import to_amount

logger = logging.getLogger(__name__)

_GET_SECONDS = 2.0


class BudgetsClient:
    """`patience` is how many seconds a call that must succeed is repeated while budget_svc is away."""

    def __init__(self, stub: budget_pb2_grpc.BudgetServiceAsyncStub, patience: float) -> None:
        self._stub = stub
        self._patience = patience

    async def open_request(self, spec: RequestSpec, deadline: int, conclusion_share: float) -> None:
        """Makes the budget of a request and, beneath it, that of all its jobs, unless they are there.

        The jobs together, their own conclusions included, get no part of what is kept for the coordinator's conclusion.
        `deadline` in epoch microseconds.
        """
        reserve = int(spec.max_cost * conclusion_share)
        request = budget_pb2.NewBudget(
            id=spec.id,
            tenant=spec.tenant,
            limit=to_amount(spec.max_cost),
            conclusion_reserve=to_amount(reserve),
        )
        request.deadline.FromMicroseconds(deadline)
        jobs = budget_pb2.NewBudget(id=_jobs_budget(spec), parent_id=spec.id, limit=to_amount(spec.max_cost - reserve))
        await self._create([request, jobs])

    async def open_jobs(self, spec: RequestSpec, calls: Sequence[tool_pb2.ToolCall]) -> None:
        """Makes the budgets of tool calls, unless they are there.

        Every job may use what all jobs have: the tree's admission gives money to whoever needs it and stops all of them at the
        limit of the whole. A fixed share for each would leave money unused by the frugal and lacking to the needy.
        """
        limit = to_amount(spec.max_cost)
        await self._create(
            [
                budget_pb2.NewBudget(id=call_.budget_id, parent_id=_jobs_budget(spec), limit=limit, tool=call_.tool)
                for call_ in calls
            ]
        )

    async def get(self, budget_id: str) -> budget_pb2.Budget | None:
        """A request's or a job's budget, or None when it has none yet or budget_svc cannot say."""
        request = budget_pb2.GetBudgetRequest(budget_id=budget_id)
        try:
            return (await call(self._stub.GetBudget, request, timeout=_GET_SECONDS)).budget
        except ServiceError as error:
            logger.info("no word on the budget %s: %s", budget_id, error)
            return None

    async def _create(self, budgets: Sequence[budget_pb2.NewBudget]) -> None:
        request = budget_pb2.CreateBudgetsRequest(budgets=budgets)
        await call(self._stub.CreateBudgets, request, patience=self._patience)


def _jobs_budget(spec: RequestSpec) -> str:
    return f"{spec.id}.jobs"
