"""The limits that no queue over gRPC and PostgreSQL can pass: the bare statements, and a bare echo."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psycopg
import uvloop

from bench.queues.measures import Extent, rate

CONNECTIONS = 4
ECHO_CALLERS = 16
_MOST_PER_SECOND = 60_000  # so that the jobs last
_METHOD = "/bench.Echo/Echo"
_CLAIM = (
    "WITH next AS (SELECT id FROM raw_jobs WHERE state = 0 ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)"
    " UPDATE raw_jobs j SET state = 1 FROM next WHERE j.id = next.id RETURNING j.id"
)


async def raw_sql(url: str, batch: int, extent: Extent) -> float:
    """Jobs per second of claim and completion, each a commit of its own, on CONNECTIONS connections."""
    jobs = int(_MOST_PER_SECOND * extent.seconds)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS raw_jobs (id bigint PRIMARY KEY, state smallint)")
        connection.execute("TRUNCATE raw_jobs")
        connection.execute("INSERT INTO raw_jobs SELECT n, 0 FROM generate_series(1, %s) n", (jobs,))
        connection.execute("CREATE INDEX IF NOT EXISTS raw_ready ON raw_jobs (id) WHERE state = 0")
        connection.execute("ANALYZE raw_jobs")
    loop = asyncio.get_running_loop()
    connections = [psycopg.connect(url, autocommit=True, prepare_threshold=1) for _ in range(CONNECTIONS)]
    free = list(connections)

    def cycle(connection: psycopg.Connection[Any]) -> int:
        ids = [id_ for (id_,) in connection.execute(_CLAIM, (batch,)).fetchall()]
        connection.execute("DELETE FROM raw_jobs WHERE id = ANY(%s)", (ids,))
        return len(ids)

    with ThreadPoolExecutor(CONNECTIONS) as threads:

        async def call() -> int:
            connection = free.pop()
            done = await loop.run_in_executor(threads, cycle, connection)
            free.append(connection)
            return done

        speed = await rate(call, CONNECTIONS, extent.seconds)
    for connection in connections:
        connection.close()
    return speed


async def echo(extent: Extent) -> float:
    """Unary calls per second from one Python process to another, 100 bytes there and back."""
    command = (sys.executable, "-m", "bench.queues.limits")
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(await server.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = channel.unary_unary(_METHOD, None, None)

            async def call() -> int:
                await method(b"x" * 100)
                return 1

            return await rate(call, ECHO_CALLERS, extent.seconds)
    finally:
        server.terminate()
        await server.wait()


async def _serve() -> None:
    async def reply(request: bytes, _: object) -> bytes:
        return request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(reply)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())
