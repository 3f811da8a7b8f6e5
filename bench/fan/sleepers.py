"""A doer whose LLM instances sleep: the service as it is, but for the models and what is paid for them.

    python -m bench.fan.sleepers coordinator_svc|tool_svc

What is left is coordination: the plan and the answer come at once, a tool sleeps 50 ms. Requests, jobs, budgets, checkpoints,
contexts, events and results are made, kept and sent as always.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from bench.fan.model import ANSWER, RESULT, TOOL, calls
from bench.peers.load import TOOL_SECONDS
from llm.catalogue import Catalogue
from llm.conversation import Conversation
from llm.instance import Host, InstanceResult, Task, ToolUse
from llm.runner import LlmRunner
from llm.tool_calls import result_block
from svc_common.endings import EndReason


class SleepingRunner:
    """Stands where `LlmRunner` stands."""

    def __init__(self, real: LlmRunner) -> None:
        self._real = real

    @property
    def catalogue(self) -> Catalogue:
        return self._real.catalogue

    async def close(self) -> None:
        await self._real.close()

    async def run(self, task: Task, host: Host, conversation: Conversation | None = None) -> InstanceResult:
        talk = Conversation()
        if task.response_schema is not None:
            await asyncio.sleep(TOOL_SECONDS)
            return _result(talk, output=dict(RESULT))
        talk.add_user([{"text": piece} for piece in task.template.render(task.values)])
        uses = [ToolUse(id_, TOOL, parameters) for id_, parameters in calls()]
        talk.add_assistant(
            [{"toolUse": {"toolUseId": use.id, "name": use.name, "input": dict(use.input)}} for use in uses]
        )
        await host.on_turn(talk)
        outcomes = await host.run_tools(1, "", uses)
        talk.add_user([result_block(use, outcome) for use, outcome in zip(uses, outcomes, strict=True)])
        await host.on_turn(talk)
        await host.on_text(ANSWER)
        talk.add_assistant([{"text": ANSWER}])
        await host.on_turn(talk)
        return _result(talk, text=ANSWER)


def _result(talk: Conversation, text: str = "", output: dict[str, Any] | None = None) -> InstanceResult:
    return InstanceResult(
        text=text,
        output=output,
        is_partial=False,
        reason=EndReason.NONE,
        message="",
        missing=(),
        usage=talk.tally.usage,
        cost=0,
        model_ids=(),
        rounds=1,
        model_calls=0,
        is_truncated=False,
    )


def main() -> None:
    server = importlib.import_module(f"{sys.argv[1]}.server")
    open_real = server.open_runner
    vars(server)["open_runner"] = lambda *args, **options: SleepingRunner(open_real(*args, **options))
    server.main()


if __name__ == "__main__":
    main()
