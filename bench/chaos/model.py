"""What the scripted endpoint answers in a chaos run: sensible plans, results and answers at a human pace, and faults of every kind.

Named to the endpoint as `bench.chaos.model:answer`. How often a call meets a fault is set by $DBP_CHAOS_FAULTS (0 to 1).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

from local_bedrock.backends.script import Fault, Reply, ToolCall
from local_bedrock.calls import ModelCall

SEED = "DBP_CHAOS_SEED"
FAULTS = "DBP_CHAOS_FAULTS"
COORDINATOR = "coordinator_main"
PATHS = ("shop/orders.py", "shop/stock.py", "README.md")

_RESULTS: Mapping[str, Mapping[str, Any]] = {
    "coordinator_get_codebase_context": {
        "relevant_files": [
            {"path": "shop/orders.py", "intent": "takes orders", "relevance_score": 1, "relevance_reason": "retries"}
        ]
    },
    "coordinator_get_codebase_changelog_context": {"query_specific_changes": [], "summary": "retries came in 1.1"},
    "coordinator_get_documentation_context": {
        "relevant_documents": [{"path": "README.md", "relevance_score": 1}],
        "direct_answer": {"summary": "payments are retried", "source_documents": ["README.md"]},
    },
    "coordinator_get_documentation_changelog_context": {"query_specific_changes": [], "summary": "nothing of late"},
    "coordinator_get_expert_architect_advice": {
        "architectural_analysis": {"current_state": "one module takes orders"},
        "architectural_recommendation": {"recommendation": "keep it", "rationale": "it is small"},
    },
}
_ANSWER = "Payments are retried three times, in shop/orders.py, and README.md says so. "


class ChaosModel:
    """Draws each reply anew, so that a call that is repeated may fare better or worse."""

    def __init__(self, chance: random.Random, faults: float) -> None:
        self._chance = chance
        self._faults = faults

    def __call__(self, call: ModelCall) -> Reply:
        reply = self._plan_or_answer(call) if call.template == COORDINATOR else self._result(call)
        chance = self._chance
        pace: dict[str, Any] = {
            "first_token_s": chance.choice((0, 0.02, 0.1, 0.3)),
            "chunk_s": chance.choice((0, 0.005, 0.02)),
            "chunk_chars": chance.choice((4, 16, 64)),
        }
        if chance.random() < self._faults:
            pace |= chance.choice(_FAULTS)(chance)
        return reply.model_copy(update=pace)

    def _plan_or_answer(self, call: ModelCall) -> Reply:
        chance = self._chance
        wants_more = chance.random() < (0.15 if call.tool_results else 0.9)
        offered = {tool.name for tool in call.offered_tools}
        if not wants_more or not offered.intersection(_RESULTS):
            return Reply(text=_ANSWER * chance.randint(1, 4))
        # Each call with words of its own: identical ones would share one execution and its end.
        tools = [
            ToolCall(name=name, input={"query": f"{call.last_user_text[-200:]} {chance.getrandbits(64):x}"})
            for name in chance.sample(sorted(offered.intersection(_RESULTS)), k=chance.randint(1, 4))
        ]
        return Reply(text=chance.choice(("", "I will look. ")), tools=(*tools, *self._reading(call, 0.2)))

    def _result(self, call: ModelCall) -> Reply:
        if (reading := self._reading(call, 0.2)) and not call.tool_results:
            return Reply(tools=reading)
        return Reply(tools=(ToolCall(name="submit_result", input=dict(_RESULTS[call.template])),))

    def _reading(self, call: ModelCall, probability: float) -> tuple[ToolCall, ...]:
        if self._chance.random() > probability or "read_files" not in {tool.name for tool in call.offered_tools}:
            return ()
        return (ToolCall(name="read_files", input={"paths": self._chance.sample(PATHS, k=2)}),)


def _late(chance: random.Random) -> int:
    return chance.randint(0, 8)


# Each makes fields of a Reply.
_FAULTS: tuple[Callable[[random.Random], dict[str, Any]], ...] = (
    lambda chance: {"fault": Fault(error="ThrottlingException")},
    lambda chance: {"fault": Fault(error="ThrottlingException", retry_after=str(chance.randint(0, 2)))},
    lambda chance: {"fault": Fault(error="ServiceUnavailableException")},
    lambda chance: {"fault": Fault(error="InternalServerException")},
    lambda chance: {"fault": Fault(error="BadGateway", status=502)},
    lambda chance: {"fault": Fault(error="ModelTimeoutException")},
    lambda chance: {"fault": Fault(stall=True)},
    lambda chance: {"fault": Fault(stall=True, after_chunks=_late(chance))},
    lambda chance: {"fault": Fault(drop=True)},
    lambda chance: {"fault": Fault(drop=True, after_chunks=_late(chance))},
    lambda chance: {"fault": Fault(drop_at_byte=chance.randint(1, 900))},
    lambda chance: {"fault": Fault(error="ModelStreamErrorException", after_chunks=_late(chance))},
    lambda chance: {"fault": Fault(error="ThrottlingException", after_chunks=_late(chance))},
    lambda chance: {"fault": Fault(error_frame="Unheard", after_chunks=_late(chance))},
    lambda chance: {"omit_usage": True},
    lambda chance: {"text": "and so on ", "tools": (), "endless": True, "chunk_chars": 512},
    lambda chance: {"tools": (ToolCall(name="submit_result", input_text='{"relevant_fi'),)},
    lambda chance: {"first_token_s": 5.0},
)

answer = ChaosModel(random.Random(os.environ.get(SEED, "0")), float(os.environ.get(FAULTS, "0.2")))
