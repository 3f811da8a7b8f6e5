"""LiteLLM's budget reservation as its proxy makes it, called in the process: counters in memory, no store, no gRPC.

python -m bench.peers.on_litellm SECONDS CALLERS...
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing from the network

from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.spend_tracking.budget_reservation import reconcile_budget_reservation, reserve_budget_for_request

from bench.peers.pairs import Calls, measure

# About 100 tokens of prompt, to be counted by LiteLLM as they come.
BODY = {
    "model": "bedrock/amazon.nova-lite-v1:0",
    "messages": [{"role": "user", "content": "reserve and settle " * 30}],
    "max_tokens": 500,
}
COST_USD = 0.00001


def calls_on(keys: Sequence[UserAPIKeyAuth]) -> Calls:
    """Pairs on the budgets of these keys, in turn over the callers."""

    def calls(caller: int, step: int) -> Sequence[Callable[[], Awaitable[object]]]:
        held: dict[str, Any] = {}

        async def reserve() -> None:
            reservation = await reserve_budget_for_request(
                request_body=dict(BODY),
                route="/chat/completions",
                llm_router=None,
                valid_token=keys[caller % len(keys)],
                team_object=None,
                user_object=None,
                prisma_client=None,
                user_api_key_cache=proxy_server.user_api_key_cache,
                proxy_logging_obj=proxy_server.proxy_logging_obj,
            )
            assert reservation is not None
            held.update(reservation)

        async def settle() -> None:
            await reconcile_budget_reservation(budget_reservation=held, actual_cost=COST_USD)

        return reserve, settle

    return calls


async def main(seconds: float, numbers: Sequence[int]) -> None:
    for callers in numbers:
        for load, count in (("contended", 1), ("spread", callers)):
            names = [f"{load}-{callers}-{number}" for number in range(count)]
            keys = [UserAPIKeyAuth(token=name, api_key=name, spend=0.0, max_budget=1e6) for name in names]
            result = await measure("LiteLLM", load, callers, seconds, calls_on(keys), time.process_time)
            print(json.dumps(asdict(result)), flush=True)


asyncio.run(main(float(sys.argv[1]), [int(each) for each in sys.argv[2:]]))
