"""Chaos: budget_svc and its callers are processes that are killed at random under load; the endpoint's own invoice is the judge.

By hand, for longer: `python -m tests.budget_svc.chaos --seconds 120 [--store postgresql]`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count, cycle, islice

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc
from dbp.common.v1 import common_pb2

from local_bedrock.backends.script import Reply
from local_bedrock.calls import ModelCall
from local_bedrock.server import start as start_bedrock
from local_bedrock.settings import LocalBedrockSettings
from svc_common.channel import call, open_channel
from svc_common.settings import CommonSettings
from tests.budget_svc.caller import LEASE_SECONDS, MAX_INPUT, MAX_OUTPUT
from tests.support.house import billed_pico_usd
from tests.support.postgres import PostgresServer
from tests.support.process import ROOT, ServerProcess

# What Nova Lite asks for the most that a call may take in and put out, in pico-USD.
WORST_CASE = MAX_INPUT * 60_000 + MAX_OUTPUT * 240_000
_JOBS = 2
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Plan:
    """`limit` is the request's, in pico-USD. It ends after so many kills, when the limit is used up, or after `seconds`."""

    limit: int
    kills: int
    seconds: float
    callers: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """Amounts in pico-USD; `calls` is how many are on the invoice."""

    invoice: int
    spent: int
    limit: int
    calls: int
    kills: Counter[str]
    differences: int

    @property
    def is_good(self) -> bool:
        return 0 < self.invoice <= self.spent <= self.limit and not self.differences


class Callers:
    """Processes of `caller.py`, of which a killed one is followed by another."""

    def __init__(self, size: int, *addresses: str) -> None:
        self._size = size
        self._addresses = addresses
        self._numbers = count()
        self._running: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        while len(self._running) < self._size:
            number = next(self._numbers)
            command = ("-m", "tests.budget_svc.caller", *self._addresses, f"c{number}", f"job{number % _JOBS}")
            self._running.append(await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT))

    async def kill(self, which: int) -> None:
        """SIGKILL of one, whatever it is doing."""
        await _kill(self._running.pop(which))
        await self.start()

    def are_done(self) -> bool:
        """Whether all have found the limit used up. Raises RuntimeError when one has failed."""
        codes = [process.returncode for process in self._running]
        if failed := [code for code in codes if code]:
            raise RuntimeError(f"a caller ended with {failed[0]}")
        return None not in codes

    async def close(self) -> None:
        for process in self._running:
            await _kill(process)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


class Answers:
    """What the models say: something of random length, now and then so late that the lease has ended."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __call__(self, model_call: ModelCall) -> Reply:
        late = LEASE_SECONDS * 1.5 if self._chance.random() < 0.03 else 0.0
        return Reply(text="on and " * self._chance.randint(1, 2 * MAX_OUTPUT), first_token_s=late)


async def chaos(database_url: str, plan: Plan) -> Verdict:
    chance = random.Random(plan.seed)
    service = ServerProcess(
        *("-m", "budget_svc"),
        listen="DBP_BUDGET_LISTEN",
        DBP_BUDGET_DATABASE_URL=database_url,
        DBP_BUDGET_SWEEP_SECONDS="0.1",
    )
    async with AsyncExitStack() as stack:
        settings = LocalBedrockSettings(port=0, backend="script", invoice_records=10**7)
        bedrock = await stack.enter_async_context(await start_bedrock(settings, Answers(random.Random(plan.seed))))
        stack.push_async_callback(service.stop)
        await service.start()
        stub = await stack.enter_async_context(_stub(service.port))
        await _create_budgets(stub, plan.limit)
        callers = Callers(plan.callers, f"127.0.0.1:{service.port}", bedrock.url)
        stack.push_async_callback(callers.close)
        await callers.start()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not bedrock.invoice.records():  # noqa: ASYNC110 - other processes decide it
                await asyncio.sleep(0.02)
        kills = await _kill_at_random(service, callers, chance, plan)
        await callers.close()
        await bedrock.wait_idle(30)
        spent = await _spent(stub)
        proof = await call(stub.VerifyLedger, budget_pb2.VerifyLedgerRequest(), patience=_PATIENCE_SECONDS)
        invoice = bedrock.invoice.records()
    return Verdict(billed_pico_usd(invoice), spent, plan.limit, len(invoice), kills, len(proof.differences))


async def _kill_at_random(service: ServerProcess, callers: Callers, chance: random.Random, plan: Plan) -> Counter[str]:
    """Who was killed how often, in turns."""
    kills: Counter[str] = Counter()
    give_up = asyncio.get_running_loop().time() + plan.seconds
    for victim in islice(cycle(("service", "caller")), plan.kills):
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        if callers.are_done() or asyncio.get_running_loop().time() > give_up:
            break
        if victim == "service":
            await service.kill()
            await service.start()
        else:
            await callers.kill(chance.randrange(plan.callers))
        kills[victim] += 1
    return kills


@asynccontextmanager
async def _stub(port: int) -> AsyncIterator[budget_pb2_grpc.BudgetServiceAsyncStub]:
    channel = open_channel(f"127.0.0.1:{port}", CommonSettings())
    yield budget_pb2_grpc.BudgetServiceStub(channel)
    await channel.close(None)


async def _create_budgets(stub: budget_pb2_grpc.BudgetServiceAsyncStub, limit: int) -> None:
    amount = common_pb2.Amount(pico_usd=limit)
    budgets = [budget_pb2.NewBudget(id="request", tenant="chaos", limit=amount)]
    budgets += [budget_pb2.NewBudget(id=f"job{number}", parent_id="request", limit=amount) for number in range(_JOBS)]
    await call(stub.CreateBudgets, budget_pb2.CreateBudgetsRequest(budgets=budgets), patience=_PATIENCE_SECONDS)


async def _spent(stub: budget_pb2_grpc.BudgetServiceAsyncStub) -> int:
    """What the ledger says once the leases of those who were killed have ended."""
    request = budget_pb2.GetBudgetRequest(budget_id="request")
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while (budget := (await call(stub.GetBudget, request)).budget).held.pico_usd:  # noqa: ASYNC110 - time decides it
            await asyncio.sleep(0.1)
    return budget.spent.pico_usd


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kills budget_svc and its callers under load and has the endpoint judge."
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()
    plan = Plan(limit=10**15, kills=10**6, seconds=options.seconds, callers=options.callers, seed=options.seed)
    with ExitStack() as stack:
        if options.store == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dbp-chaos-"))
            url = f"sqlite:///{folder}/budget.sqlite"
        else:
            server = PostgresServer()
            stack.callback(server.close)
            server.start()
            url = server.url
        verdict = asyncio.run(chaos(url, plan))
    sys.stdout.write(f"{verdict}\n")
    sys.exit(0 if verdict.is_good else 1)


if __name__ == "__main__":
    main()
