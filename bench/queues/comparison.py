"""jobs_svc over gRPC beside Procrastinate and PgQueuer on the same PostgreSQL, with durable commits throughout, in one run.

    python -m bench.queue [--quick] [--rounds N] [--json FILE] [--only ours|peers|bloat]

Peers are installed into `.bench-venv` at the first run. docs/bench-queue.md says what is in which figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import uvloop

from bench.peers.environment import PeerMissing, python_with, run_peer
from bench.queues import bloat, ours
from bench.queues import limits as bare
from bench.queues.measures import FULL, QUICK, Extent, Figures
from tests.support.postgres import PostgresServer, fresh_database

PACKAGES = ("procrastinate==3.10.0", "pgqueuer==1.6.0", "asyncpg==0.32.0", "psycopg[binary,pool]")
PEERS = {"Procrastinate": "on_procrastinate", "PgQueuer": "on_pgqueuer"}
OURS = "ours, PostgreSQL"
_PEER_SECONDS = 300
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


def measure_peer(name: str, url: str, *, quick: bool) -> Figures:
    """Raises PeerMissing when it cannot be measured here."""
    python = python_with("queue", PACKAGES)
    command = [str(python), "-m", f"bench.queues.{PEERS[name]}", url, *(["--quick"] if quick else [])]
    return Figures(**json.loads(run_peer(command, _PEER_SECONDS).splitlines()[-1]))


@contextmanager
def reported(peer: str) -> Iterator[None]:
    """A peer that cannot be measured here leaves its column out."""
    try:
        yield
    except PeerMissing as missing:
        print(f"{peer} is missing: {missing}", file=sys.stderr)


@dataclass
class Findings:
    """By queue, but for the limits, which are of the machine."""

    figures: dict[str, Figures] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)  # CPU of jobs_svc, ms per job, by figure
    limits: dict[str, float] = field(default_factory=dict)
    bloat: bloat.Bloat | None = None

    def add(self, other: Findings) -> None:
        """Keeps the best of each figure: what else a machine does only ever slows."""
        for name, figures in other.figures.items():
            self.figures[name] = best(self.figures.get(name, figures), figures)
        for name, costs in other.costs.items():
            self.costs[name] = {
                figure: min(cost, self.costs.get(name, costs)[figure]) for figure, cost in costs.items()
            }
        self.limits = {name: max(limit, self.limits.get(name, limit)) for name, limit in other.limits.items()}
        self.bloat = other.bloat or self.bloat  # of one round: its figures are compared with each other

    def __str__(self) -> str:
        lines = [*self._table(), *(f"limit: {name:32}{value:>12,.0f}/s" for name, value in self.limits.items())]
        for name, costs in self.costs.items():
            by_figure = ", ".join(f"{figure} {cost:.3f}" for figure, cost in costs.items())
            lines.append(f"CPU of jobs_svc, ms per job ({name}): {by_figure}")
        if self.bloat:
            lines.append(f"under a snapshot that stays open, jobs per second: {self.bloat}")
        return "\n".join(lines)

    def _table(self) -> Iterator[str]:
        """One line per figure, with the ratio of ours on PostgreSQL to each peer."""
        if not self.figures:
            return
        reference = self.figures.get(OURS)
        yield f"{'':16}" + "".join(f"{name:>20}" for name in self.figures)
        for each in fields(Figures):
            cells = []
            for name, of_queue in self.figures.items():
                value = getattr(of_queue, each.name)
                ratio = ""
                if reference and name in PEERS and value and (own := getattr(reference, each.name)):
                    ratio = f" ({value / own if each.name.startswith('pickup') else own / value:.1f}x)"
                cells.append(f"{f'{value:,.1f}{ratio}' if value < 100 else f'{value:,.0f}{ratio}':>20}")
            yield f"{each.name:16}" + "".join(cells)
        yield "(ratio: how many times better ours on PostgreSQL is; pickup in ms, all else jobs per second)"


def best(one: Figures, other: Figures) -> Figures:
    return Figures(
        **{
            each.name: (min if each.name.startswith("pickup") else max)(
                getattr(one, each.name), getattr(other, each.name)
            )
            for each in fields(Figures)
        }
    )


async def run(*, quick: bool, only: str | None) -> Findings:
    extent = QUICK if quick else FULL
    findings = Findings()
    server = PostgresServer(DURABLE)
    try:
        server.start()
        if only in (None, "ours"):
            with tempfile.TemporaryDirectory(prefix="dbp-bench-") as folder:
                await _measure_ours("ours, SQLite", f"sqlite:///{folder}/jobs.sqlite", extent, findings)
            with fresh_database(server.url) as url:
                await _measure_ours(OURS, url, extent, findings)
        if only in (None, "peers"):
            for name in PEERS:
                with fresh_database(server.url) as url, reported(name):
                    findings.figures[name] = await asyncio.to_thread(measure_peer, name, url, quick=quick)
        if only != "bloat":
            with fresh_database(server.url) as url:
                for batch in (1, 100):
                    findings.limits[f"raw SQL, batches of {batch}"] = await bare.raw_sql(url, batch, extent)
            findings.limits["bare gRPC echo"] = await bare.echo(extent)
        if only in (None, "bloat"):
            with fresh_database(server.url) as url:
                findings.bloat = await asyncio.to_thread(bloat.measure, url, extent)
    finally:
        server.close()
    return findings


async def _measure_ours(name: str, url: str, extent: Extent, findings: Findings) -> None:
    findings.figures[name], findings.costs[name] = await ours.measure(url, extent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within a minute; for a look, not for a comparison")
    parser.add_argument("--rounds", type=int, default=1, help="do all of it so often, and keep the best of each figure")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--only", choices=["ours", "peers", "bloat"])
    arguments = parser.parse_args()
    findings = Findings()
    for _ in range(arguments.rounds):
        findings.add(uvloop.run(run(quick=arguments.quick, only=arguments.only)))
    print(findings)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(findings), indent=1) + "\n")


if __name__ == "__main__":
    main()
