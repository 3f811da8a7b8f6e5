"""How fast is the index? Against ripgrep over the same files, on trees of this machine.

    python -m bench.context [TREE ...] [--quick] [--refreshes 20] [--json FILE]

For each tree, in a process of its own: building the index from nothing, with its memory; a refresh and a snapshot of it
when nothing changed and after one file did; a query. Beside them ripgrep: listing the files, and one pass over all of
them for a word that is not there; it keeps to ignore rules as the index does. The tree is not touched: its files are
linked into a scratch folder on the same file system, where the one changed file is a new one. File contents are read
once beforehand, so both sides find them in memory.

Without arguments: this repository, all packages installed for this Python, and the biggest git repository at hand: one of
100,000 files (10,000 with `--quick`) that is made of the sources installed with this Python.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.peers.environment import ROOT, PeerMissing
from bench.trees import large_repository, ripgrep
from tool_svc.index.languages import Role
from tool_svc.index.parsers import MAX_PROCESSES
from tool_svc.workspaces import Workspaces

QUESTIONS = (
    "How does the session cookie get its secure flag?",
    "fix handling of authorization headers on redirect",
    "Where is sparse matrix multiplication implemented?",
    "certificate verification and hostname matching",
    "parse command line arguments with subcommands",
    "thread pool shutdown waits for pending futures",
    "JSON decoder error message position",
    "Why does importing a module with a circular dependency fail?",
    "retry with exponential backoff and jitter",
    "event loop timeouts and cancellation of tasks",
    "lease renewal of running jobs",
    "schema migration for a new column",
)
NOT_THERE = "zqxjkvbpyq"


class Took(NamedTuple):
    """Seconds by the clock, and of processor time in this process and in those it has waited for."""

    clock: float
    processor: float


def timed(work: Callable[[], object]) -> Took:
    """What `work` takes."""
    began, before = time.perf_counter(), sum(os.times()[:4])
    work()
    return Took(time.perf_counter() - began, sum(os.times()[:4]) - before)


def middle(times: Sequence[Took]) -> Took:
    return Took(statistics.median(took.clock for took in times), statistics.fmean(took.processor for took in times))


@dataclass(frozen=True)
class Ours:
    """Our figures for a tree. `cold` builds the index, with `memory` in MB; `unchanged` and `changed` are a refresh and a snapshot,
    `elsewhere` is the first look of another process at a changed tree."""

    files: int
    cold: Took
    memory: float
    unchanged: Took
    changed: Took
    elsewhere: Took
    query: Took
    slowest_query: float


@dataclass(frozen=True)
class Ripgrep:
    """Its figures for a tree."""

    files: int
    listing: Took
    searching: Took


def measure(tree: Path, refreshes: int) -> Ours:
    """Changes the tree."""

    def refreshed(workspaces: Workspaces) -> None:
        workspaces.refresh("tree")
        workspaces.snapshot("tree").close()

    with tempfile.TemporaryDirectory() as cache:
        workspaces, others = (Workspaces({"tree": tree}, Path(cache)) for _ in range(2))
        cold = timed(lambda: workspaces.refresh("tree"))
        # The largest child stands for each of the parsing processes; an upper bound, for not every tree needs them.
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + child * min(os.cpu_count() or 1, MAX_PROCESSES)
        refreshed(workspaces)
        # Fresh time stamps prove nothing; the next refresh looks at those files once more.
        workspaces.refresh("tree")
        unchanged = [timed(lambda: refreshed(workspaces)) for _ in range(refreshes)]
        changed, elsewhere = [], []
        for turn in range(refreshes):
            (tree / "changed_by_bench.py").write_text(f'"""Turn {turn}."""\n')
            changed.append(timed(lambda: refreshed(workspaces)))
            with workspaces.snapshot("tree") as snapshot:
                elsewhere.append(timed(partial(others.opened_snapshot, "tree", snapshot.id)))
        with workspaces.snapshot("tree") as snapshot:
            files = snapshot.files_total
            queries = [timed(partial(snapshot.view.ranked, question, Role)) for question in QUESTIONS * 3]
        warm = queries[len(QUESTIONS) :]
        return Ours(
            files=files,
            cold=cold,
            memory=kilobytes / 1000,
            unchanged=middle(unchanged),
            changed=middle(changed),
            elsewhere=middle(elsewhere),
            query=middle(warm),
            slowest_query=max(took.clock for took in warm),
        )


def measure_ripgrep(rg: str, tree: Path) -> Ripgrep:
    """The median of three passes each, after one to warm up."""
    everything = [rg, "--hidden", "--glob", "!.git"]

    def listed() -> bytes:
        return subprocess.run([*everything, "--files", "--null"], cwd=tree, capture_output=True, check=False).stdout

    def searched() -> None:
        subprocess.run([*everything, "--count", NOT_THERE, "."], cwd=tree, capture_output=True, check=False)

    searched()
    listing, searching = (middle([timed(work) for _ in range(3)]) for work in (listed, searched))
    return Ripgrep(listed().count(b"\0"), listing, searching)


@dataclass(frozen=True)
class Comparison:
    ours: Ours
    ripgrep: Ripgrep | None
    load_average: float


def compare(tree: Path, refreshes: int, rg: str | None) -> Comparison:
    """All figures for one tree."""
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".bench-") as scratch:
        linked = Path(scratch) / "tree"
        aside = shutil.ignore_patterns(".venv", ".bench-venv")  # ignored anyway, and larger than all the rest
        shutil.copytree(tree, linked, symlinks=True, copy_function=os.link, ignore=aside, ignore_dangling_symlinks=True)
        theirs = measure_ripgrep(rg, linked) if rg else None
        # In a process of its own, for its memory.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            ours = process.submit(measure, linked, refreshes).result()
    return Comparison(ours, theirs, os.getloadavg()[0])


def table(figures: Comparison) -> str:
    """Markdown."""
    ours, theirs = figures.ours, figures.ripgrep
    rows = [("index from nothing", ours.cold, f"{ours.memory:.0f} MB for {ours.files:,} files that may be read")]
    if theirs is not None:
        passes = Took(*(mine / other for mine, other in zip(ours.cold, theirs.searching, strict=True)))
        rows += [
            ("ripgrep lists the files", theirs.listing, f"{theirs.files:,} files"),
            ("ripgrep searches all of them", theirs.searching, f"the index takes {passes.clock:.1f} such passes, "
             f"{passes.processor:.1f} by processor time"),
        ]  # fmt: skip
    rows += [
        ("refresh, nothing changed", ours.unchanged, ""),
        ("refresh, one file changed", ours.changed, ""),
        ("another process looks at that change", ours.elsewhere, ""),
        ("query", ours.query, f"slowest {1000 * ours.slowest_query:.0f} ms"),
    ]
    lines = [f"| {what} | {seconds(took.clock)} | {seconds(took.processor)} | {more} |" for what, took, more in rows]
    return "\n".join(["| what | clock | processor | |", "|---|---|---|---|", *lines])


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def default_trees(scratch: Path, *, quick: bool) -> Iterator[tuple[str, Path]]:
    """(name, folder) of each."""
    yield "this repository", ROOT
    if not quick:
        yield "the packages installed for this Python", Path(sysconfig.get_path("purelib"))
    files = 10_000 if quick else 100_000
    yield f"a git repository of {files:,} files", large_repository(scratch / "repository", files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, help="folders to measure")
    parser.add_argument("--quick", action="store_true", help="small trees, five refreshes")
    parser.add_argument("--refreshes", type=int, default=20, help="how often to refresh (default 20)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    refreshes = 5 if options.quick else options.refreshes
    rg = None
    try:
        rg = ripgrep()
    except PeerMissing as error:
        print(f"nothing to compare with, ripgrep cannot be had: {error}")
    every: dict[str, Comparison] = {}
    with tempfile.TemporaryDirectory(prefix="dbp-bench-") as scratch:
        named = [(str(tree), tree.resolve()) for tree in options.trees]
        for name, tree in named or default_trees(Path(scratch), quick=options.quick):
            every[name] = compare(tree, refreshes, rg)
            print(f"\n## {name}\n\n{table(every[name])}")
            print(f"\n{os.cpu_count()} cores; load average {every[name].load_average:.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({name: asdict(each) for name, each in every.items()}, indent=2))


if __name__ == "__main__":
    main()
