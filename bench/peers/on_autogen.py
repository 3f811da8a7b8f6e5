"""AutoGen's gRPC runtime: eight messages to agents in another process, through a host in a third. Nothing is durable."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from dataclasses import dataclass

from autogen_core import AgentId, MessageContext, RoutedAgent, message_handler
from autogen_core import try_get_known_serializers_for_type as serializers
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from bench.peers.load import TOOL_SECONDS, TOOLS, arguments, measure_all


@dataclass
class Number:
    number: int


class Tool(RoutedAgent):
    @message_handler
    async def run(self, message: Number, ctx: MessageContext) -> Number:
        await asyncio.sleep(TOOL_SECONDS)
        return message


async def connect(address: str) -> GrpcWorkerAgentRuntime:
    runtime = GrpcWorkerAgentRuntime(host_address=address)
    runtime.add_message_serializer(serializers(Number))
    await runtime.start()
    return runtime


async def until_told() -> None:
    print("ready", flush=True)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


async def serve(role: str, address: str) -> None:
    if role == "host":
        host = GrpcWorkerAgentRuntimeHost(address=address)
        host.start()
        await until_told()
        await host.stop(grace=0)
        return
    runtime = await connect(address)
    await Tool.register(runtime, "tool", lambda: Tool("sleeps"))
    await until_told()
    await runtime.stop()


async def start(role: str, address: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.peers.on_autogen", role, address, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 60)
    return process


async def main() -> None:
    options = arguments()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [await start("host", address), await start("tools", address)]
    try:
        runtime = await connect(address)

        async def request() -> None:
            numbers = (Number(number) for number in range(TOOLS))
            agents = (AgentId("tool", str(number)) for number in range(TOOLS))
            sends = (runtime.send_message(*pair) for pair in zip(numbers, agents, strict=True))
            assert len(await asyncio.gather(*sends)) == TOOLS

        await measure_all(request, options)
        await runtime.stop()
    finally:
        for process in reversed(processes):
            process.terminate()
            await process.wait()


asyncio.run(serve(*sys.argv[1:]) if sys.argv[1] in ("host", "tools") else main())
