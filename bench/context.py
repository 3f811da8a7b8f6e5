"""How fast is the index? Against ripgrep over the same files, on trees of this machine.

    python bench/context.py [TREE ...] [--refreshes 20]

For each tree, in a process of its own: building the index from nothing, with its memory; a refresh and a snapshot of it
when nothing changed and after one file did; a query. Beside them ripgrep: listing the files, and one pass over all of
them for a word that is not there. The tree is not touched: its files are linked into a scratch folder on the same file
system, where the one changed file is a new one. File contents are read once beforehand, so both sides find them in
memory.

Without arguments: this repository, and all packages installed for this Python.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

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


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(tree: Path, refreshes: int) -> dict[str, float]:
    """All our figures for a tree: seconds, and memory in MB. Changes the tree."""

    def seen(workspaces: Workspaces) -> None:
        workspaces.refresh("tree")
        workspaces.snapshot("tree").close()

    with tempfile.TemporaryDirectory() as cache:
        workspaces = Workspaces({"tree": tree}, Path(cache))
        cold = timed(lambda: workspaces.refresh("tree"))
        # The largest child stands for each of the parsing processes; an upper bound, for not every tree needs them.
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + child * min(os.cpu_count() or 1, MAX_PROCESSES)
        seen(workspaces)
        # Fresh time stamps prove nothing; the next refresh looks at those files once more.
        workspaces.refresh("tree")
        unchanged = [timed(lambda: seen(workspaces)) for _ in range(refreshes)]
        changed = []
        for turn in range(refreshes):
            (tree / "changed_by_bench.py").write_text(f'"""Turn {turn}."""\n')
            changed.append(timed(lambda: seen(workspaces)))
        queries = []
        with workspaces.snapshot("tree") as snapshot:
            files = snapshot.files_total
            for question in QUESTIONS * 3:
                queries.append(timed(partial(snapshot.view.ranked, question, Role)))
        warm = queries[len(QUESTIONS) :]
        return {
            "files indexed": files,
            "cold": cold,
            "memory": kilobytes / 1000,
            "unchanged": statistics.median(unchanged),
            "changed": statistics.median(changed),
            "query": statistics.median(warm),
            "slowest query": max(warm),
        }


def ripgrep(tree: Path) -> dict[str, float]:
    """Seconds of `rg --files` and of a full pass (the median of three), and how many files it saw."""
    every = ["rg", "--no-ignore", "--hidden"]

    def listed() -> bytes:
        return subprocess.run([*every, "--files", "--null"], cwd=tree, capture_output=True, check=False).stdout

    def searched() -> None:
        subprocess.run([*every, "--count", NOT_THERE, "."], cwd=tree, capture_output=True, check=False)

    searched()
    return {
        "files": listed().count(b"\0"),
        "rg --files": statistics.median(timed(listed) for _ in range(3)),
        "rg pass": statistics.median(timed(searched) for _ in range(3)),
    }


def report(tree: Path, refreshes: int, has_ripgrep: bool) -> None:
    """Measures one tree and prints its table."""
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".bench-") as scratch:
        linked = Path(scratch) / "tree"
        shutil.copytree(tree, linked, symlinks=True, copy_function=os.link, ignore_dangling_symlinks=True)
        theirs = ripgrep(linked) if has_ripgrep else {}
        command = [sys.executable, __file__, "--measure", str(linked), "--refreshes", str(refreshes)]
        ours: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    print(f"\n## {tree}\n")
    if theirs:
        passes = ours["cold"] / theirs["rg pass"]
        print(f"{theirs['files']:,.0f} files, {ours['files indexed']:,.0f} of them text that may be read\n")
    print("| what | measured |\n|---|---|")
    print(f"| index from nothing | {ours['cold']:.2f} s, {ours['memory']:.0f} MB |")
    if theirs:
        print(f"| ripgrep: list files / one full pass | {theirs['rg --files']:.2f} s / {theirs['rg pass']:.2f} s |")
        print(f"| index from nothing, in ripgrep passes | {passes:.1f} |")
    print(f"| refresh, nothing changed / one file changed | {ours['unchanged']:.3f} s / {ours['changed']:.3f} s |")
    print(f"| query, p50 / slowest | {1000 * ours['query']:.0f} ms / {1000 * ours['slowest query']:.0f} ms |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, help="folders to measure")
    parser.add_argument("--refreshes", type=int, default=20, help="how often to refresh (default 20)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.refreshes)))
        return
    has_ripgrep = shutil.which("rg") is not None
    if not has_ripgrep:
        print("ripgrep (rg) is not installed: nothing to compare with, only our own figures follow")
    here = Path(__file__).resolve().parent.parent
    for tree in arguments.trees or [here, Path(sysconfig.get_path("purelib"))]:
        report(tree.resolve(), arguments.refreshes, has_ripgrep)


if __name__ == "__main__":
    main()
