"""Does the context hold the right files? Asks the ranking for past commits, by their messages.

    python -m bench.relevance [REPOSITORY] [--quick] [--commits 300] [--most-files N] [--revision HEAD]
        [--json FILE]

Each of the last non-merge commits is a question: its message is the query, the files it changed (as they were before
it) are the right answer. The index is built from nothing at the commit's parent, so no signal can see the commit itself
or anything later. Beside ours stand plain BM25 over the files' text and ripgrep: files with the most distinct words of
the message, then with the most matches. Commits that changed no file which was there before and may be read ask nothing;
all others count, unless `--most-files` leaves out those that changed more. Without a repository it is this one.

Recall at N files is the share of right files among the first N. Recall at N tokens is the share that has a block within
the first N tokens when blocks (intent and symbols of code, the first lines of anything else) are laid out in each
ranking's order.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s

from bench.peers.environment import ROOT, PeerMissing
from bench.trees import ripgrep
from tool_svc.context.codebase import summary
from tool_svc.context.material import estimate_tokens
from tool_svc.index.languages import Role
from tool_svc.index.words import STOP_WORDS
from tool_svc.workspace import git
from tool_svc.workspaces import Workspaces, WorkspaceSnapshot

AT_FILES = (5, 10, 20)
AT_TOKENS = (2_000, 8_000)
QUICK_COMMITS = 12
SHOWN_CHARACTERS = 600
# Added by tools and people about who, not what.
_TRAILER = re.compile(r"^(?:[A-Z][\w-]+-by|Change-Id|Closes|Fixes|Refs):.*$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A commit as a question: what it says, where the files were before it, and which of them it changed."""

    commit: str
    parent: str
    message: str
    right: frozenset[str]


def questions(repository: Path, revision: str, count: int) -> list[Question]:
    """The last `count` commits that can be asked about, oldest first."""
    log = git.run(
        repository, "log", "--no-merges", f"--max-count={count}", "--format=%H %P", "--end-of-options", revision
    ).decode()
    found = []
    for line in log.splitlines()[::-1]:
        commit, *parents = line.split()
        if not parents:
            continue
        message = git.run(repository, "show", "--no-patch", "--format=%B", commit).decode("utf-8", "replace")
        # D, M and T only: a file that the commit added was not there before it.
        changed = git.run(
            repository, "diff-tree", "-r", "-z", "--no-renames", "--name-only", "--diff-filter=DMT", parents[0], commit
        )
        right = frozenset(path for path in changed.decode("utf-8", "replace").split("\0") if path)
        found.append(Question(commit, parents[0], _TRAILER.sub("", message).strip(), right))
    return found


def plain_bm25(texts: Mapping[str, str], query: str) -> list[str]:
    """Files by BM25 over their whole text."""
    paths = list(texts)
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(texts.values()), stopwords="en", show_progress=False), show_progress=False)
    (tokens,) = bm25s.tokenize([query], stopwords="en", show_progress=False, return_ids=False)
    scores = index.get_scores(tokens) if tokens else [0.0] * len(paths)
    return [path for path, score in sorted(zip(paths, scores, strict=True), key=lambda pair: -pair[1]) if score > 0]


def ripgrep_keywords(rg: str, texts: Mapping[str, str], query: str, folder: Path) -> list[str]:
    """Files by the number of distinct words of `query` in them, then by the number of lines that hold any."""
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    words = {word.lower() for word in re.findall(r"\w{3,}", query)} - STOP_WORDS
    distinct: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for word in sorted(words)[:40]:
        every = [rg, "--no-ignore", "--hidden", "--ignore-case", "--word-regexp", "--fixed-strings"]
        command = [*every, "--count", word, "."]
        output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60).stdout
        for line in output.splitlines():
            path, _, count = line.removeprefix("./").rpartition(":")
            distinct[path] += 1
            lines[path] += int(count)
    return sorted(distinct, key=lambda path: (-distinct[path], -lines[path], path))


def block_tokens(snapshot: WorkspaceSnapshot, texts: Mapping[str, str]) -> dict[str, int]:
    """Tokens that the block of each file takes."""
    files = snapshot.view.files
    facts = snapshot.view.facts(files.values())
    return {
        path: estimate_tokens(
            f"{path}\n{summary(facts[path]) if file.role is Role.CODE else texts.get(path, '')[:SHOWN_CHARACTERS]}"
        )
        for path, file in files.items()
    }


def recalls(ranked: Sequence[str], right: frozenset[str], tokens: Mapping[str, int]) -> list[float]:
    """Recall at each of `AT_FILES`, then at each of `AT_TOKENS`."""
    at_files = [len(right.intersection(ranked[:count])) for count in AT_FILES]
    at_tokens = []
    for budget in AT_TOKENS:
        shown, used = set(), 0
        for path in ranked:
            used += tokens.get(path, 0) + 1
            if used > budget:
                break
            shown.add(path)
        at_tokens.append(len(right & shown))
    return [found / len(right) for found in (*at_files, *at_tokens)]


def ask(repository: Path, question: Question, rg: str | None) -> dict[str, list[float]] | None:
    """Recalls of each way to rank; None when none of the right files may be read."""
    with tempfile.TemporaryDirectory() as scratch:
        workspaces = Workspaces({"repository": f"{repository}@{question.parent}"}, Path(scratch) / "cache")
        with workspaces.snapshot("repository") as snapshot:
            right = frozenset(path for path in question.right if snapshot.holds(path))
            if not right or not question.message:
                return None
            texts = {path: snapshot.view.text(path) or "" for path in snapshot.view.files}
            tokens = block_tokens(snapshot, texts)
            rankings = {
                "ours": [entry.file.path for entry in snapshot.view.ranked(question.message, Role)],
                "plain BM25": plain_bm25(texts, question.message),
            }
            if rg:
                rankings["ripgrep"] = ripgrep_keywords(rg, texts, question.message, Path(scratch) / "files")
    return {name: recalls(ranked, right, tokens) for name, ranked in rankings.items()}


def means(results: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Mean recall in percent of each ranking, by what it was measured at."""
    places = [*(f"{count} files" for count in AT_FILES), *(f"{count // 1000}k tokens" for count in AT_TOKENS)]
    return {
        name: {
            place: round(100 * statistics.fmean(result[name][column] for result in results), 1)
            for column, place in enumerate(places)
        }
        for name in results[0]
    }


def table(by_ranking: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown."""
    places = list(next(iter(by_ranking.values())))
    lines = [f"| recall in percent at | {' | '.join(places)} |", "|---|" + "---|" * len(places)]
    lines += [f"| {name} | {' | '.join(map(str, found.values()))} |" for name, found in by_ranking.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", nargs="?", type=Path, default=ROOT, help="a git repository, bare or not")
    parser.add_argument("--quick", action="store_true", help=f"ask about {QUICK_COMMITS} commits")
    parser.add_argument("--commits", type=int, default=300, help="how many non-merge commits to go back (default 300)")
    parser.add_argument("--most-files", type=int, default=10**9, help="leave out commits that changed more files")
    parser.add_argument("--revision", default="HEAD", help="where to start (default HEAD)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    repository = options.repository.resolve()
    rg = None
    try:
        rg = ripgrep()
    except PeerMissing as error:
        print(f"the row of ripgrep is left out, it cannot be had: {error}")
    began = time.monotonic()
    asked = questions(repository, options.revision, QUICK_COMMITS if options.quick else options.commits)
    narrow = [question for question in asked if len(question.right) <= options.most_files]
    results = [result for question in narrow if (result := ask(repository, question, rg)) is not None]
    print(f"{repository}: {len(results)} of the last {len(asked)} commits, up to {options.revision}")
    if results:
        print(f"\n{table(means(results))}")
        print(f"\n{time.monotonic() - began:.0f} s; {os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}")
    if options.json:
        figures = {"commits": len(results), "recall": means(results) if results else {}}
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
