"""How many model calls budget_svc can account for: pairs of ReserveCharge (with dispatch) and SettleCharge per second.

    python -m bench.budget [--quick] [--json] [--seconds N] [--store sqlite|postgresql] [--only ours|peers]

Each store is a fresh one with its full durability (SQLite synchronous FULL, PostgreSQL fsync on). The service is a process of its
own, and so is the load: grpc.aio and uvloop on both sides, over loopback. "contended" puts all callers on one budget, "spread"
gives each its own; all are under one tenant. "echo" is a bare grpc.aio server that answers messages of the same size, two per pair:
what gRPC itself leaves room for. After each store the ledger must prove its balances. LiteLLM, installed into `.bench-venv` at the
first run, is measured in its own process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict

import grpc
import psutil
import uvloop
from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.common.v1 import common_pb2

from bench.peers.environment import PeerMissing, python_with, run_peer
from bench.peers.pairs import Result, measure
from tests.support.postgres import PostgresServer
from tests.support.process import ServerProcess

CALLERS = (1, 16, 64)
MODEL = "amazon.nova-lite-v1:0"
# The newest whose proxy's own packages can be had from the index as well.
PACKAGES = ("litellm[proxy]==1.108.7",)
_PEER_SECONDS = 600


def cpu_seconds(server: ServerProcess) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return times.user + times.system


async def bench_budget(server: ServerProcess, store: str, loads: list[tuple[str, int]], seconds: float) -> list[Result]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    stub = budget_pb2_grpc.BudgetServiceStub(channel)
    usage = common_pb2.TokenUsage(input_tokens=900, output_tokens=150, cache_read_tokens=100)
    results = []
    for load, callers in loads:
        name = f"{load}-{callers}"
        limit = common_pb2.Amount(pico_usd=10**15)
        count = callers if load == "spread" else 1
        budgets = [budget_pb2.NewBudget(id=f"{name}-{number}", tenant="bench", limit=limit) for number in range(count)]
        await stub.CreateBudgets(budget_pb2.CreateBudgetsRequest(budgets=budgets), timeout=30)

        def calls(
            caller: int, step: int, name: str = name, count: int = count
        ) -> Sequence[Callable[[], Awaitable[object]]]:
            charge_id = f"{name}.{caller}.{step}"
            reserve = budget_pb2.ReserveChargeRequest(
                charge_id=charge_id,
                budget_id=f"{name}-{caller % count}",
                model_id=MODEL,
                max_input_tokens=2000,
                max_output_tokens=500,
                dispatch=True,
            )
            settle = budget_pb2.SettleChargeRequest(charge_id=charge_id, usage=usage)
            return (
                lambda: stub.ReserveCharge(reserve, timeout=30),
                lambda: stub.SettleCharge(settle, timeout=30),
            )

        results.append(await measure(store, load, callers, seconds, calls, lambda: cpu_seconds(server)))
    proof = await stub.VerifyLedger(budget_pb2.VerifyLedgerRequest(), timeout=300)
    if proof.differences:
        sys.exit(f"the ledger of {store} does not prove its balances: {proof.differences}")
    await channel.close(None)
    return results


async def bench_echo(server: ServerProcess, loads: list[tuple[str, int]], seconds: float) -> list[Result]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    echo = channel.unary_unary("/bench.Echo/Echo", request_serializer=bytes, response_deserializer=bytes)
    # About the size of a reservation and of a charge on the wire.
    message = bytes(120)

    def calls(caller: int, step: int) -> Sequence[Callable[[], Awaitable[object]]]:
        return (lambda: echo(message, timeout=30),) * 2

    callers = sorted({callers for _, callers in loads})
    results = [await measure("none", "echo", each, seconds, calls, lambda: cpu_seconds(server)) for each in callers]
    await channel.close(None)
    return results


async def serve_echo() -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    print(f"serves on port {server.add_insecure_port('127.0.0.1:0')}", file=sys.stderr, flush=True)
    await server.start()
    await server.wait_for_termination()


@asynccontextmanager
async def running(server: ServerProcess) -> AsyncIterator[ServerProcess]:
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def measure_ours(stores: Sequence[str], loads: list[tuple[str, int]], seconds: float) -> list[Result]:
    async with running(ServerProcess("-m", "bench.budget", "--serve-echo")) as server:
        results = await bench_echo(server, loads, seconds)
    for store in stores:
        with ExitStack() as stack:
            if store == "sqlite":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dbp-bench-"))
                url = f"sqlite:///{folder}/budget.sqlite"
            else:
                postgres = PostgresServer({"fsync": "on", "full_page_writes": "on"})
                stack.callback(postgres.close)
                postgres.start()
                url = postgres.url
            service = ServerProcess(
                *("-m", "budget_svc"),
                listen="DBP_BUDGET_LISTEN",
                DBP_BUDGET_DATABASE_URL=url,
                DBP_BUDGET_DEFAULT_TENANT='{"limit_usd": "1000000"}',
            )
            async with running(service) as server:
                results += await bench_budget(server, store, loads, seconds)
    return results


def measure_litellm(callers: Sequence[int], seconds: float) -> list[Result]:
    """Nothing where it cannot be measured."""
    try:
        python = python_with("litellm", PACKAGES)
        command = [str(python), "-m", "bench.peers.on_litellm", str(seconds), *map(str, callers)]
        lines = run_peer(command, _PEER_SECONDS).splitlines()
    except PeerMissing as missing:
        print(f"LiteLLM is missing: {missing}", file=sys.stderr)
        return []
    return [Result(**json.loads(line)) for line in lines if line.startswith("{")]


def main() -> None:
    if sys.argv[1:] == ["--serve-echo"]:
        uvloop.run(serve_echo())
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64 callers only, 2 seconds each")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each load lasts")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), action="append", help="default: both")
    parser.add_argument("--only", choices=("ours", "peers"), help="default: both")
    options = parser.parse_args()
    seconds = 2.0 if options.quick else options.seconds
    callers = CALLERS[-1:] if options.quick else CALLERS
    loads = [(load, each) for each in callers for load in ("contended", "spread")]
    results = []
    if options.only != "peers":
        results += uvloop.run(measure_ours(options.store or ("sqlite", "postgresql"), loads, seconds))
    if options.only != "ours":
        results += measure_litellm(callers, seconds)
    if options.json:
        for result in results:
            print(json.dumps(asdict(result)))
        return
    print(
        f"{'store':<12}{'load':<12}{'callers':>8}{'pairs/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'pair p99':>10}{'cpu us':>8}"
    )
    for each in results:
        print(
            f"{each.store:<12}{each.load:<12}{each.callers:>8}{each.pairs_per_second:>10.0f}"
            f"{each.p50_ms:>9.2f}{each.p99_ms:>9.2f}{each.pair_p99_ms:>10.2f}{each.cpu_us:>8.0f}"
        )


if __name__ == "__main__":
    main()
