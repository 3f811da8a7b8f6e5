"""How many model calls budget_svc can account for: pairs of ReserveCharge (with dispatch) and SettleCharge per second.

    python bench/budget.py [--quick] [--json] [--seconds N] [--store sqlite|postgresql]

Each store is a fresh one with its full durability (SQLite synchronous FULL, PostgreSQL fsync on). The service is a process of its
own, and so is the load: grpc.aio and uvloop on both sides, over loopback. "contended" puts all callers on one budget, "spread"
gives each its own; all are under one tenant. "echo" is a bare grpc.aio server that answers messages of the same size, two per pair:
what gRPC itself leaves room for. After each store the ledger must prove its balances.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import grpc
import psutil
import uvloop
from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.common.v1 import common_pb2

from tests.support.postgres import PostgresServer

ROOT = Path(__file__).resolve().parent.parent
CALLERS = (1, 16, 64)
MODEL = "amazon.nova-lite-v1:0"
WARM_UP_SECONDS = 0.5

# The two calls of a pair, one to be made after the other, for a given caller and step.
Calls = Callable[[int, int], Sequence[Callable[[], Awaitable[object]]]]


@dataclass(frozen=True, slots=True)
class Result:
    """Latencies of single calls and of whole pairs; `cpu_us` is what the server's process burnt for a pair."""

    store: str
    load: str
    callers: int
    pairs_per_second: float
    p50_ms: float
    p99_ms: float
    pair_p99_ms: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Server:
    """A started server process."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


async def measure(server: Server, store: str, load: str, callers: int, seconds: float, calls: Calls) -> Result:
    """Has each caller make its pairs one after the other."""
    per_call: list[float] = []
    per_pair: list[float] = []
    pairs = 0
    burnt = server.cpu_seconds()
    begin = time.perf_counter() + WARM_UP_SECONDS
    end = begin + seconds

    async def run(caller: int) -> None:
        nonlocal pairs
        step = 0
        while (started := time.perf_counter()) < end:
            ended = [started]
            for call in calls(caller, step):
                await call()
                ended.append(time.perf_counter())
            step += 1
            pairs += 1
            if started >= begin:
                per_call.extend(after - before for before, after in pairwise(ended))
                per_pair.append(ended[-1] - started)

    await asyncio.gather(*(run(caller) for caller in range(callers)))
    return Result(
        store=store,
        load=load,
        callers=callers,
        pairs_per_second=round(len(per_pair) / seconds, 1),
        p50_ms=quantile_ms(per_call, 0.5),
        p99_ms=quantile_ms(per_call, 0.99),
        pair_p99_ms=quantile_ms(per_pair, 0.99),
        cpu_us=round((server.cpu_seconds() - burnt) / pairs * 1e6, 1),
    )


def quantile_ms(seconds: list[float], share: float) -> float:
    return round(sorted(seconds)[int(len(seconds) * share)] * 1000, 2)


async def bench_budget(server: Server, store: str, loads: list[tuple[str, int]], seconds: float) -> list[Result]:
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

        results.append(await measure(server, store, load, callers, seconds, calls))
    proof = await stub.VerifyLedger(budget_pb2.VerifyLedgerRequest(), timeout=300)
    if proof.differences:
        sys.exit(f"the ledger of {store} does not prove its balances: {proof.differences}")
    await channel.close(None)
    return results


async def bench_echo(server: Server, loads: list[tuple[str, int]], seconds: float) -> list[Result]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    echo = channel.unary_unary("/bench.Echo/Echo", request_serializer=bytes, response_deserializer=bytes)
    # About the size of a reservation and of a charge on the wire.
    message = bytes(120)

    def calls(caller: int, step: int) -> Sequence[Callable[[], Awaitable[object]]]:
        return (lambda: echo(message, timeout=30),) * 2

    callers = sorted({callers for _, callers in loads})
    results = [await measure(server, "none", "echo", each, seconds, calls) for each in callers]
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


@contextmanager
def process(*command: str, **environment: str) -> Iterator[Server]:
    """A process of ours that tells its port on its standard error; ended with the block."""
    child = subprocess.Popen(
        [sys.executable, *command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", **environment},
    )
    assert child.stderr is not None
    try:
        for line in child.stderr:
            if found := re.search(r"serves on port (\d+)", line):
                yield Server(int(found[1]), psutil.Process(child.pid))
                return
        raise RuntimeError(f"{command} ended with {child.wait()}")
    finally:
        child.terminate()
        child.communicate(timeout=30)


@contextmanager
def budget_process(store: str) -> Iterator[Server]:
    with ExitStack() as stack:
        if store == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dbp-bench-"))
            url = f"sqlite:///{folder}/budget.sqlite"
        else:
            postgres = PostgresServer({"fsync": "on", "full_page_writes": "on"})
            stack.callback(postgres.close)
            postgres.start()
            url = postgres.url
        environment = {
            "DBP_BUDGET_LISTEN": "127.0.0.1:0",
            "DBP_BUDGET_DATABASE_URL": url,
            "DBP_BUDGET_DEFAULT_TENANT": '{"limit_usd": "1000000"}',
        }
        yield stack.enter_context(process("-m", "budget_svc", **environment))


def main() -> None:
    if sys.argv[1:] == ["--serve-echo"]:
        uvloop.run(serve_echo())
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="64 callers only, 2 seconds each")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each load lasts")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), action="append", help="default: both")
    options = parser.parse_args()
    seconds = 2.0 if options.quick else options.seconds
    callers = CALLERS[-1:] if options.quick else CALLERS
    loads = [(load, each) for each in callers for load in ("contended", "spread")]
    results = []
    with process(str(Path(__file__).resolve()), "--serve-echo") as server:
        results += uvloop.run(bench_echo(server, loads, seconds))
    for store in options.store or ("sqlite", "postgresql"):
        with budget_process(store) as server:
            results += uvloop.run(bench_budget(server, store, loads, seconds))
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
