"""Restate: a handler that calls eight durable handlers through its server, from a process of ours, asked by HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import aiohttp
import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config

from bench.peers.load import TOOL_SECONDS, TOOLS, arguments, measure_all

fan = restate.Service("Fan")
_READY_SECONDS = 60


@fan.handler()
async def tool(ctx: restate.Context, number: int) -> int:
    await asyncio.sleep(TOOL_SECONDS)
    return number


@fan.handler()
async def run(ctx: restate.Context, number: int) -> int:
    calls = [ctx.service_call(tool, each) for each in range(TOOLS)]
    await restate.gather(*calls)
    return number


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(session: aiohttp.ClientSession, url: str, body: Any) -> Any:
    async with session.post(url, json=body) as response:
        text = await response.text()
        if response.status >= 300:
            raise RuntimeError(f"{url}: {response.status} {text}")
        return json.loads(text)


async def main() -> None:
    options = arguments()
    ingress, admin, node, services = (free_port() for _ in range(4))
    environment = {
        **os.environ,
        "RESTATE_BASE_DIR": f"{options.folder}/restate",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "HTTPS_PROXY": "http://127.0.0.1:9",  # its look for a newer version stays on this machine
        "RESTATE_LOG_FILTER": "error",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}/",
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
    }
    config = Config()
    config.bind = [f"127.0.0.1:{services}"]
    config.loglevel = "ERROR"
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve(restate.app([fan]), config, shutdown_trigger=stopping.wait))
    with (Path(options.folder) / "restate.log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            os.environ["RESTATE_SERVER"], stdout=log, stderr=log, env=environment
        )
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await register(session, f"http://127.0.0.1:{admin}/deployments", f"http://127.0.0.1:{services}")
            url = f"http://127.0.0.1:{ingress}/Fan/run"
            await measure_all(lambda: ask(session, url, 1), options)
    finally:
        server.terminate()
        await server.wait()
        stopping.set()
        await serving


async def register(session: aiohttp.ClientSession, url: str, deployment: str) -> None:
    """Tells the server where the handlers are, as soon as it listens."""
    give_up = asyncio.get_running_loop().time() + _READY_SECONDS
    while True:
        try:
            await ask(session, url, {"uri": deployment})
            return
        except (aiohttp.ClientError, RuntimeError):
            if asyncio.get_running_loop().time() > give_up:
                raise
        await asyncio.sleep(0.2)


asyncio.run(main())
