"""jobs_svc over gRPC beside Procrastinate and PgQueuer on the same PostgreSQL, with durable commits throughout, in one run.

    python -m bench.queue [--quick] [--json FILE] [--only ours|peers]

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
from dataclasses import asdict, fields
from pathlib import Path

import uvloop

from bench.peers.environment import PeerMissing, python_with, run_peer
from bench.queues import limits as bare
from bench.queues import ours
from bench.queues.measures import (
    FULL,
    QUICK,
    Figures,
)
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


def table(figures: dict[str, Figures], limits: dict[str, float]) -> str:
    """One line per figure, with the ratio of ours on PostgreSQL to each peer."""
    reference = figures.get(OURS)
    lines = [f"{'':16}" + "".join(f"{name:>20}" for name in figures)]
    for field in fields(Figures):
        cells = []
        for name, of_queue in figures.items():
            value = getattr(of_queue, field.name)
            ratio = ""
            if reference and name in PEERS and value and (own := getattr(reference, field.name)):
                ratio = f" ({value / own if field.name.startswith('pickup') else own / value:.1f}x)"
            cells.append(f"{f'{value:,.1f}{ratio}' if value < 100 else f'{value:,.0f}{ratio}':>20}")
        lines.append(f"{field.name:16}" + "".join(cells))
    lines += [f"limit: {name:32}{value:>12,.0f}/s" for name, value in limits.items()]
    return "\n".join(
        [*lines, "(ratio: how many times better ours on PostgreSQL is; pickup in ms, all else per second)"]
    )


async def run(arguments: argparse.Namespace) -> tuple[dict[str, Figures], dict[str, float]]:
    extent = QUICK if arguments.quick else FULL
    figures: dict[str, Figures] = {}
    limits: dict[str, float] = {}
    server = PostgresServer(DURABLE)
    try:
        server.start()
        if arguments.only != "peers":
            with tempfile.TemporaryDirectory(prefix="dbp-bench-") as folder:
                figures["ours, SQLite"] = await ours.measure(f"sqlite:///{folder}/jobs.sqlite", extent)
            with fresh_database(server.url) as url:
                figures[OURS] = await ours.measure(url, extent)
        if arguments.only != "ours":
            for name in PEERS:
                with fresh_database(server.url) as url, reported(name):
                    figures[name] = await asyncio.to_thread(measure_peer, name, url, quick=arguments.quick)
        with fresh_database(server.url) as url:
            for batch in (1, 100):
                limits[f"raw SQL, batches of {batch}"] = await bare.raw_sql(url, batch, extent)
        limits["bare gRPC echo"] = await bare.echo(extent)
    finally:
        server.close()
    return figures, limits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within a minute; for a look, not for a comparison")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--only", choices=["ours", "peers"])
    arguments = parser.parse_args()
    figures, limits = uvloop.run(run(arguments))
    print(table(figures, limits))
    if arguments.json:
        content = {"figures": {name: asdict(each) for name, each in figures.items()}, "limits": limits}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
