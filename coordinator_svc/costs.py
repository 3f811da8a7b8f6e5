"""What the tools cost, for the LLM that chooses among them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.tool.v1 import tool_pb2

from llm.catalogue import Catalogue
from svc_common.channel import call
from svc_common.errors import ServiceError
from svc_common.money import format_usd

# A run of middle size: what the figure is for is comparing the tools.
_INPUT_TOKENS, _OUTPUT_TOKENS = 12_000, 1_000


class ToolCosts:
    """Asks budget_svc once per model."""

    def __init__(self, budgets: budget_pb2_grpc.BudgetServiceAsyncStub, catalogue: Catalogue) -> None:
        self._budgets = budgets
        self._catalogue = catalogue
        self._known: dict[str, str] = {}

    async def describe(self, tools: Iterable[tool_pb2.Tool]) -> str:
        """One line per tool."""
        offered = list(tools)
        roles = sorted({tool.model_role for tool in offered})
        costs = dict(zip(roles, await asyncio.gather(*map(self._cost, roles)), strict=True))
        return "\n".join(f"{tool.name}: {costs[tool.model_role]}" for tool in offered)

    async def _cost(self, role: str) -> str:
        if not role:
            return "free"
        model_id = self._catalogue.models_for(role)[0].id
        if model_id not in self._known:
            request = budget_pb2.EstimateChargeRequest(
                model_id=model_id, max_input_tokens=_INPUT_TOKENS, max_output_tokens=_OUTPUT_TOKENS
            )
            try:
                estimate = await call(self._budgets.EstimateCharge, request, timeout=1.0)
            except ServiceError:
                return "price not known"
            self._known[model_id] = f"about {format_usd(estimate.worst_case.pico_usd)} USD a run"
        return self._known[model_id]
