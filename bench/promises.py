"""A chaos run over real processes, and what it did to the promises.

    python -m bench.promises [--quick] [--seconds 60] [--seed 1] [--store sqlite|postgresql] [--json FILE] [--keep FOLDER]

The house runs as `dbp up` starts it. Its models meet faults of every kind, its services are killed at random, its callers leave,
cancel, come back, ask twice, have no time or no money. Afterwards every request is followed up where it is kept. All figures
but the overshoot must be zero; what breaks a promise is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dbp.coordinator.v1 import coordinator_pb2

from bench.chaos import model
from bench.chaos.callers import Asked, Caller
from bench.chaos.checks import CHECKS, Scene, overshoot, stop_delays
from bench.chaos.evidence import Trail, gather_trails
from bench.chaos.lag import LagProbe
from bench.chaos.outages import Killer, Outage, counted
from dbp_client import AsyncClient
from dbp_client.house import SERVICES, House
from tests.support.house import small_repository
from tests.support.postgres import PostgresServer, fresh_database

LEASE_SECONDS = 2.0
CHARGE_LEASE_SECONDS = 4.0


@dataclass(frozen=True)
class Plan:
    """What a run is made of. Requests have `longest_seconds` at most; `faults` is the part of model calls that meet one; every
    `kill_seconds` or so a service is killed."""

    seconds: float
    seed: int
    callers: int = 6
    longest_seconds: float = 15.0
    faults: float = 0.2
    kill_seconds: float = 4.0
    store: str = "sqlite"


@dataclass
class Findings:
    """What a run came to. `broken` has, per promise, each breach in words."""

    broken: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in CHECKS})
    requests: int = 0
    refused: int = 0
    jobs: int = 0
    model_calls: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    outages: Sequence[Outage] = ()
    overshoot: Sequence[int] = ()
    """Of requests that time cut short, in microseconds."""
    overshoot_in_quiet: Sequence[int] = ()
    """Of those among them during which no service was away."""
    stop_delays: Sequence[int] = ()
    """By how much model calls outlasted their jobs' ends from outside."""

    @property
    def is_kept(self) -> bool:
        return not any(self.broken.values())


async def run(plan: Plan, folder: Path) -> Findings:
    """One run; its databases and logs are left in `folder`."""
    chance = random.Random(plan.seed)
    workspace = small_repository(folder / "workspace")
    with stores(plan.store) as urls, LagProbe() as lag:
        environment = {
            model.SEED: str(plan.seed),
            model.FAULTS: str(plan.faults),
            "DBP_JOBS_LEASE_SECONDS": str(LEASE_SECONDS),
            "DBP_LLM_CHARGE_LEASE_SECONDS": str(CHARGE_LEASE_SECONDS),
            "DBP_LLM_FIRST_EVENT_SECONDS": "3",
            "DBP_LLM_STALL_SECONDS": "2",
            **urls,
        }
        house = House(
            folder / "data",
            {"default": workspace},
            bedrock="bench.chaos.model:answer",
            free_ports=True,
            environment=environment,
        )
        async with house, AsyncClient(house.settings, patience=25) as client:
            killer = Killer(house, chance, plan.kill_seconds, pause_seconds=1.5 * LEASE_SECONDS)
            killing = asyncio.create_task(killer.run())
            asked: list[Asked] = []
            until = asyncio.get_running_loop().time() + plan.seconds
            callers = [
                Caller(client, random.Random(chance.random()), plan.longest_seconds, asked) for _ in range(plan.callers)
            ]
            await asyncio.gather(*(caller.run(until) for caller in callers))
            killing.cancel()
            await killing
            return await follow_up(house, client, asked, killer.outages, lag)


async def follow_up(
    house: House, client: AsyncClient, asked: Sequence[Asked], outages: Sequence[Outage], lag: LagProbe
) -> Findings:
    """Waits until nothing can be under way any more, and then checks everything."""
    findings = Findings(outages=outages)
    await asyncio.sleep(CHARGE_LEASE_SECONDS + 1)  # what dead processes had sent is charged by then
    logs = [house.log_of(name) for name in SERVICES]
    trails, unknown = await gather_trails(client, asked, house.bedrock_url, logs)
    scene = Scene(outages, lag)
    for trail in trails:
        for name, check in CHECKS.items():
            findings.broken[name] += [f"{_name(trail.asked)}: {words}" for words in check(trail, scene)]
        tally(findings, trail)
    lost = [one for one in unknown if one.is_accepted]
    findings.broken["lost outcomes"] += [f"{_name(one)}: accepted, and then unknown" for one in lost]
    findings.refused = len(unknown) - len(lost)
    ledger = await client.verify_ledger()
    findings.broken["overspend"] += [f"the ledger does not prove {difference}" for difference in ledger.differences]
    findings.overshoot = overshoot(trails, outages, only_quiet=False)
    findings.overshoot_in_quiet = overshoot(trails, outages, only_quiet=True)
    findings.stop_delays = stop_delays(trails)
    return findings


def tally(findings: Findings, trail: Trail) -> None:
    findings.requests += 1
    findings.jobs += len(trail.jobs) - 1
    findings.model_calls += len(trail.calls)
    if trail.replay.result is not None:
        outcome = coordinator_pb2.RequestResult.Outcome.Name(trail.replay.result.outcome)
        findings.outcomes[outcome.removeprefix("OUTCOME_").lower()] += 1


@contextmanager
def stores(kind: str) -> Iterator[Mapping[str, str]]:
    """Settings of a fresh store of the given kind."""
    if kind == "sqlite":
        yield {}
        return
    with ExitStack() as stack:
        server = PostgresServer()
        stack.callback(server.close)
        server.start()
        yield {
            f"DBP_{short}_DATABASE_URL": stack.enter_context(fresh_database(server.url)) for short in ("JOBS", "BUDGET")
        }


def report(findings: Findings) -> str:
    """The figures as text, and each breach in words."""
    lines = [
        f"{findings.requests} requests ({_counts(findings.outcomes)}), {findings.refused} refused, {findings.jobs} jobs, "
        f"{findings.model_calls} model calls",
        f"{_counts(counted(findings.outages))}; away for {_spread([o.ended - o.began for o in findings.outages]).strip()}",
        "",
    ]
    for name, broken in findings.broken.items():
        lines.append(f"{name:<28}{len(broken):>6}")
        lines += [f"    {words}" for words in broken[:20]]
    for name, late in (
        ("overshoot", findings.overshoot),
        ("overshoot in quiet", findings.overshoot_in_quiet),
        ("stopping a model call", findings.stop_delays),
    ):
        lines.append(f"{name:<28}{_spread(late)}")
    return "\n".join(lines)


def figures(findings: Findings) -> dict[str, object]:
    """The figures for programs; overshoots in milliseconds."""
    return {
        "requests": findings.requests,
        "outcomes": findings.outcomes,
        "refused": findings.refused,
        "jobs": findings.jobs,
        "model_calls": findings.model_calls,
        "outages": counted(findings.outages),
        **{name.replace(" ", "_"): len(broken) for name, broken in findings.broken.items()},
        "overshoot_ms": _percentiles(findings.overshoot),
        "overshoot_in_quiet_ms": _percentiles(findings.overshoot_in_quiet),
        "stop_delay_ms": _percentiles(findings.stop_delays),
    }


def _percentiles(times: Sequence[int]) -> dict[str, float]:
    """Microseconds in, milliseconds out."""
    if not times:
        return {}
    at = {"p50": len(times) // 2, "p99": int(len(times) * 0.99), "max": len(times) - 1}
    return {name: round(sorted(times)[index] / 1000, 1) for name, index in at.items()}


def _spread(times: Sequence[int]) -> str:
    words = ", ".join(f"{name} {value:.1f} ms" for name, value in _percentiles(times).items())
    return f"  {words} (of {len(times)})" if words else "  nothing to measure"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"


def _name(asked: Asked) -> str:
    return f"{asked.request_id} ({asked.temper})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within a minute")
    parser.add_argument("--seconds", type=float, help="how long questions are asked (default 60, or 20 if quick)")
    parser.add_argument("--seed", type=int, default=1, help="of tempers, kills and faults (default 1)")
    parser.add_argument("--callers", type=int, default=6, help="callers at the same time (default 6)")
    parser.add_argument("--faults", type=float, default=0.2, help="part of model calls that meet a fault (default 0.2)")
    parser.add_argument("--kill-seconds", type=float, default=4.0, help="mean time between kills (default 4)")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--keep", type=Path, help="leave databases and logs in this folder")
    options = parser.parse_args()
    plan = Plan(
        seconds=options.seconds or (20.0 if options.quick else 60.0),
        seed=options.seed,
        callers=options.callers,
        faults=options.faults,
        kill_seconds=options.kill_seconds,
        store=options.store,
    )
    with tempfile.TemporaryDirectory(prefix="dbp-promises-") as scratch:
        findings = asyncio.run(run(plan, options.keep or Path(scratch)))
    print(report(findings))
    if options.json:
        options.json.write_text(json.dumps(figures(findings), indent=2))
    sys.exit(0 if findings.is_kept else 1)


if __name__ == "__main__":
    main()
