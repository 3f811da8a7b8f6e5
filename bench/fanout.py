"""What coordination costs: eight tools of 50 ms at the same time, here and in systems like it, in one run.

    python -m bench.fanout [--quick] [--seconds N] [--json FILE] [--only ours|peers]

The overhead is all of a request's time beyond 50 ms. Peers are installed into `.bench-venv` at the first run. This system runs as
five processes with durable SQLite files, once with LLM instances that sleep, as the peers' tools do ("this system"), and once with
ten metered model calls a request against the local endpoint ("... with models"). docs/bench-fanout.md says what is in which figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from bench.fan import peers, system
from bench.fan.peers import PEERS
from bench.fan.system import Measured
from bench.peers.environment import PeerMissing
from bench.peers.load import Load

CALLERS = (1, 8, 64)
OURS = "this system"


@dataclass
class Figures:
    """Loads by the system's name, what else was measured of ours, and why a peer is missing."""

    loads: dict[str, list[Load]] = field(default_factory=dict)
    ours: dict[str, list[Measured]] = field(default_factory=dict)
    stream_kib: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


async def measure_ours(
    figures: Figures, name: str, callers: Sequence[int], seconds: float, *, with_models: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="dbp-bench-") as folder:
        async with system.opened(Path(folder), with_models=with_models) as (house, client):
            measured = [await system.measure_load(client, each, seconds) for each in callers]
            figures.ours[name] = measured
            figures.loads[name] = [each.whole for each in measured]
            if with_models:
                figures.stream_kib = await system.stream_kib(house, client)


def measure_peers(figures: Figures, callers: Sequence[int], seconds: float) -> None:
    try:
        python = peers.install()
    except PeerMissing as error:
        figures.missing.update({peer.name: str(error) for peer in PEERS})
        return
    for peer in PEERS:
        try:
            figures.loads[peer.name] = peers.measure(python, peer, callers, seconds)
        except PeerMissing as error:
            figures.missing[peer.name] = str(error)


def table(figures: Figures) -> str:
    """Markdown. Ratios are to this system with sleeping tools: above 1 the other waits longer, or does more."""
    base = {load.callers: load for load in figures.loads.get(OURS, [])}
    durable = {peer.name: peer.is_durable for peer in PEERS}
    lines = [
        "| system | durable | callers | requests/s | overhead p50 ms | p99 ms | p50 ratio | rate ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, loads in figures.loads.items():
        for load in loads:
            ratios = "| | |"
            if ours := base.get(load.callers):
                p50, rate = (
                    load.overhead_p50_ms / ours.overhead_p50_ms,
                    load.requests_per_second / ours.requests_per_second,
                )
                ratios = f"| {p50:.2f} | {rate:.2f} |"
            lines.append(
                f"| {name} | {'yes' if durable.get(name, True) else 'no'} | {load.callers} | {load.requests_per_second} "
                f"| {load.overhead_p50_ms} | {load.overhead_p99_ms} {ratios}"
            )
    lines += [f"| {name} | not measured: {why} | | | | | | |" for name, why in figures.missing.items()]
    return "\n".join([*lines, "", *ours_in_detail(figures)])


def ours_in_detail(figures: Figures) -> list[str]:
    lines = [
        "| this system | callers | fan-out p50 ms | p99 ms | first event p50 ms | p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, measured in figures.ours.items():
        for each in measured:
            lines.append(
                f"| {name} | {each.whole.callers} | {each.fan_out_p50_ms} | {each.fan_out_p99_ms} "
                f"| {each.first_event_p50_ms} | {each.first_event_p99_ms} |"
            )
    if figures.stream_kib:
        parts = ", ".join(f"{name} {kib} KiB" for name, kib in figures.stream_kib.items())
        lines += ["", f"Memory of a watching stream: {parts}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a second for each load, 1 and 8 callers")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load lasts (default 10)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--only", choices=("ours", "peers"), help="measure one side alone")
    options = parser.parse_args()
    callers, seconds = (CALLERS[:2], 1.0) if options.quick else (CALLERS, options.seconds)
    figures = Figures()
    before = psutil.getloadavg()
    if options.only != "peers":
        asyncio.run(measure_ours(figures, OURS, callers, seconds, with_models=False))
        asyncio.run(measure_ours(figures, f"{OURS} with models", callers, seconds, with_models=True))
    if options.only != "ours":
        measure_peers(figures, callers, seconds)
    print(table(figures))
    print(f"\n{psutil.cpu_count()} cores; load average before {before[0]:.1f}, after {psutil.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(asdict(figures), indent=2))


if __name__ == "__main__":
    main()
