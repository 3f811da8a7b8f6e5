"""LangGraph with its SQLite checkpointer: a graph that sends to eight nodes, in one process; every step durable before the next."""

from __future__ import annotations

import asyncio
import operator
import uuid
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from bench.peers.load import TOOL_SECONDS, TOOLS, arguments, measure_all


class State(TypedDict):
    results: Annotated[list[int], operator.add]


async def tool(state: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(TOOL_SECONDS)
    return {"results": [state["number"]]}


def plan(state: State) -> list[Send]:
    return [Send("tool", {"number": number}) for number in range(TOOLS)]


async def main() -> None:
    options = arguments()
    graph = StateGraph(State)
    graph.add_node("tool", tool)
    graph.add_conditional_edges(START, plan, ["tool"])
    graph.add_edge("tool", END)
    async with AsyncSqliteSaver.from_conn_string(f"{options.folder}/langgraph.sqlite") as saver:
        compiled = graph.compile(checkpointer=saver)

        async def request() -> None:
            config = {"configurable": {"thread_id": uuid.uuid4().hex}}
            state = await compiled.ainvoke({"results": []}, config, durability="sync")
            assert len(state["results"]) == TOOLS

        await measure_all(request, options)


asyncio.run(main())
