"""Chaos: budget_svc as a process that is killed at random, and callers that give up at random, under load.

Reusable: `BudgetProcess` runs and kills the service, `Load` makes model calls and keeps a judge of what was really used.
By hand, for longer: `python -m tests.budget_svc.chaos --seconds 120 [--store postgresql]`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.common.v1 import common_pb2

from svc_common.channel import call, open_channel
from svc_common.errors import ErrorReason, ServiceError
from svc_common.settings import CommonSettings
from svc_common.times import duration_from_seconds
from tests.support.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
MODEL = "amazon.nova-lite-v1:0"
# In every reservation: what Nova Lite asks for so many tokens, in pico-USD.
MAX_INPUT, MAX_OUTPUT = 1000, 100
WORST_CASE = MAX_INPUT * 60_000 + MAX_OUTPUT * 240_000
LEASE_SECONDS = 0.5


class BudgetProcess:
    """`python -m budget_svc` on a port that stays the same, killed and started again at will."""

    def __init__(self, database_url: str, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {"DBP_BUDGET_DATABASE_URL": database_url, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Returns when it listens."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "budget_svc",
            cwd=ROOT,
            env={**os.environ, "DBP_BUDGET_LISTEN": f"127.0.0.1:{self.port}", **self._environment},
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr is not None
        lines: list[str] = []
        async for line in self._process.stderr:
            lines.append(line.decode())
            if found := re.search(r"serves on port (\d+)", lines[-1]):
                self.port = int(found[1])
                self._log = asyncio.create_task(_drain(self._process.stderr))
                return
        raise RuntimeError("budget_svc does not start:\n" + "".join(lines))

    async def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        await self._process.wait()
        if self._log:
            await self._log
        self._process = None


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


@dataclass
class Judge:
    """What really happened: the cost of every call that was sent. The ledger must not say less."""

    invoice: int = 0
    sent: int = 0
    finished: int = 0
    denied: int = 0


@dataclass
class Load:
    """Callers that reserve, send and settle through whatever happens, and sometimes vanish in the middle."""

    port: int
    limit: int
    callers: int
    seed: int = 0
    judge: Judge = field(default_factory=Judge)

    async def run(self, stop: asyncio.Event) -> None:
        """Works until told to stop or the limit is used up."""
        channel = open_channel(f"127.0.0.1:{self.port}", CommonSettings())
        try:
            stub = budget_pb2_grpc.BudgetServiceStub(channel)
            await self._create_budgets(stub)
            await asyncio.gather(*(self._caller(stub, number, stop) for number in range(self.callers)))
        finally:
            await channel.close(None)

    async def _create_budgets(self, stub: budget_pb2_grpc.BudgetServiceAsyncStub) -> None:
        limit = common_pb2.Amount(pico_usd=self.limit)
        budgets = [budget_pb2.NewBudget(id="request", tenant="chaos", limit=limit)]
        budgets += [budget_pb2.NewBudget(id=f"job{n}", parent_id="request", limit=limit) for n in range(4)]
        await call(stub.CreateBudgets, budget_pb2.CreateBudgetsRequest(budgets=budgets), patience=60)

    async def _caller(self, stub: budget_pb2_grpc.BudgetServiceAsyncStub, number: int, stop: asyncio.Event) -> None:
        chance = random.Random(self.seed * 1000 + number)
        step = 0
        while not stop.is_set():
            step += 1
            try:
                await self._model_call(stub, f"c{number}.{step}", f"job{number % 4}", chance)
            except ServiceError as error:
                self.judge.denied += 1
                if error.reason is ErrorReason.BUDGET_EXCEEDED:
                    return
                if error.reason not in (ErrorReason.BUDGET_HELD, ErrorReason.CHARGE_STATE):
                    raise

    async def _model_call(
        self, stub: budget_pb2_grpc.BudgetServiceAsyncStub, charge_id: str, budget_id: str, chance: random.Random
    ) -> None:
        reserve = budget_pb2.ReserveChargeRequest(
            charge_id=charge_id,
            budget_id=budget_id,
            model_id=MODEL,
            max_input_tokens=MAX_INPUT,
            max_output_tokens=MAX_OUTPUT,
            max_wait=duration_from_seconds(0.2),
            lease=duration_from_seconds(LEASE_SECONDS),
            dispatch=chance.random() < 0.5,
        )
        await call(stub.ReserveCharge, reserve, patience=60)
        if chance.random() < 0.03:
            return  # died before it sent anything
        if not reserve.dispatch:
            await call(stub.DispatchCharge, budget_pb2.DispatchChargeRequest(charge_id=charge_id), patience=60)
        usage = common_pb2.TokenUsage(
            input_tokens=chance.randint(1, MAX_INPUT), output_tokens=chance.randint(1, MAX_OUTPUT)
        )
        self.judge.invoice += usage.input_tokens * 60_000 + usage.output_tokens * 240_000
        self.judge.sent += 1
        match chance.random():
            case luck if luck < 0.03:
                return  # died after it had sent the call
            case luck if luck < 0.06:
                await call(stub.SettleCharge, budget_pb2.SettleChargeRequest(charge_id=charge_id), patience=60)
            case luck if luck < 0.09:
                await asyncio.sleep(LEASE_SECONDS * 1.5)  # so slow that the lease ends before it settles
        settle = budget_pb2.SettleChargeRequest(charge_id=charge_id, usage=usage)
        await call(stub.SettleCharge, settle, patience=60)
        self.judge.finished += 1


async def kill_at_random(process: BudgetProcess, chance: random.Random, *, kills: int, stop: asyncio.Event) -> int:
    """Kills the service and starts it again, so many times or until told to stop; returns how often."""
    for done in range(kills):
        try:
            await asyncio.wait_for(stop.wait(), chance.uniform(0.1, 0.8))
        except TimeoutError:
            await process.kill()
            await process.start()
        else:
            return done
    return kills


@dataclass(frozen=True)
class Verdict:
    """Amounts in pico-USD."""

    judge: Judge
    kills: int
    spent: int
    held: int
    limit: int
    differences: int


async def chaos(database_url: str, *, kills: int, seconds: float, callers: int, limit: int, seed: int) -> Verdict:
    """Load under kills, until so many have been survived or the time is up."""
    process = BudgetProcess(database_url, {"DBP_BUDGET_SWEEP_SECONDS": "0.1"})
    await process.start()
    load = Load(process.port, limit, callers, seed)
    stop = asyncio.Event()
    try:
        working = asyncio.create_task(load.run(stop))
        killing = asyncio.create_task(kill_at_random(process, random.Random(seed), kills=kills, stop=stop))
        await asyncio.wait({killing, working}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await working
        return await _verdict(process, load, await killing)
    finally:
        await process.stop()


async def _verdict(process: BudgetProcess, load: Load, kills: int) -> Verdict:
    channel = open_channel(f"127.0.0.1:{process.port}", CommonSettings())
    stub = budget_pb2_grpc.BudgetServiceStub(channel)
    try:
        async with asyncio.timeout(60):
            while True:  # until the leases of those who vanished have ended
                request = budget_pb2.GetBudgetRequest(budget_id="request")
                budget = (await call(stub.GetBudget, request, patience=60)).budget
                if not budget.held.pico_usd:
                    break
                await asyncio.sleep(0.1)
        proof = await call(stub.VerifyLedger, budget_pb2.VerifyLedgerRequest(), patience=60)
    finally:
        await channel.close(None)
    return Verdict(load.judge, kills, budget.spent.pico_usd, budget.held.pico_usd, load.limit, len(proof.differences))


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills budget_svc under load and checks what its ledger says.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.store == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dbp-chaos-"))
            url = f"sqlite:///{folder}/budget.sqlite"
        else:
            server = PostgresServer()
            stack.callback(server.close)
            server.start()
            url = server.url
        verdict = asyncio.run(
            chaos(url, kills=10**6, seconds=options.seconds, callers=options.callers, limit=10**15, seed=options.seed)
        )
    sys.stdout.write(f"{verdict}\n")
    good = verdict.judge.invoice <= verdict.spent <= verdict.limit and not verdict.differences
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
