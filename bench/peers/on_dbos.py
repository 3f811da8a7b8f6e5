"""DBOS on PostgreSQL: a workflow with eight steps at the same time, in one process."""

from __future__ import annotations

import asyncio

from dbos import DBOS, DBOSConfig

from bench.peers.load import TOOL_SECONDS, TOOLS, arguments, measure_all


@DBOS.step()
async def tool(number: int) -> int:
    await asyncio.sleep(TOOL_SECONDS)
    return number


@DBOS.workflow()
async def request() -> int:
    return len(await asyncio.gather(*(tool(number) for number in range(TOOLS))))


async def main() -> None:
    options = arguments()
    config: DBOSConfig = {"name": "bench", "system_database_url": options.url, "log_level": "ERROR"}
    DBOS(config=config)
    DBOS.launch()
    try:
        await measure_all(request, options)
    finally:
        DBOS.destroy()


asyncio.run(main())
