"""Does the context hold the right files? Asks the ranking for past commits, by their messages.

    python bench/relevance.py REPOSITORY [--commits 300] [--revision HEAD]

Each of the last non-merge commits is a question: its message is the query, the files it changed (as they were before
it) are the right answer. The index is built from nothing at the commit's parent, so no signal can see the commit itself
or anything later. Beside ours stand plain BM25 over the files' text and ripgrep: files with the most distinct words of
the message, then with the most matches.

Recall at N files is the share of right files among the first N. Recall at N tokens is the share that has a block within
the first N tokens when blocks (intent and symbols of code, the first lines of anything else) are laid out in each
ranking's order.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s

from tool_svc.context.codebase import summary
from tool_svc.context.material import estimate_tokens
from tool_svc.index.languages import Role
from tool_svc.index.words import STOP_WORDS
from tool_svc.workspace import git
from tool_svc.workspaces import Workspaces, WorkspaceSnapshot

AT_FILES = (5, 10, 20)
AT_TOKENS = (2_000, 8_000)
MAX_RIGHT_FILES = 20
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


def ripgrep_keywords(texts: Mapping[str, str], query: str, folder: Path) -> list[str]:
    """Files by the number of distinct words of `query` in them, then by the number of lines that hold any."""
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    words = {word.lower() for word in re.findall(r"\w{3,}", query)} - STOP_WORDS
    distinct: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for word in sorted(words)[:40]:
        command = [
            "rg",
            "--no-ignore",
            "--hidden",
            "--ignore-case",
            "--word-regexp",
            "--fixed-strings",
            "--count",
            word,
            ".",
        ]
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


def ask(repository: Path, question: Question, has_ripgrep: bool) -> dict[str, list[float]] | None:
    """Recalls of each way to rank; None when none of the right files may be read."""
    with tempfile.TemporaryDirectory() as scratch:
        workspaces = Workspaces({"repository": f"{repository}@{question.parent}"}, Path(scratch) / "cache")
        with workspaces.snapshot("repository") as snapshot:
            right = frozenset(path for path in question.right if snapshot.holds(path))
            if not right:
                return None
            texts = {path: snapshot.view.text(path) or "" for path in snapshot.view.files}
            tokens = block_tokens(snapshot, texts)
            rankings = {
                "ours": [entry.file.path for entry in snapshot.view.ranked(question.message, Role)],
                "plain BM25": plain_bm25(texts, question.message),
            }
            if has_ripgrep:
                rankings["ripgrep"] = ripgrep_keywords(texts, question.message, Path(scratch) / "files")
    return {name: recalls(ranked, right, tokens) for name, ranked in rankings.items()}


def table(results: Iterable[dict[str, list[float]]]) -> str:
    """Mean recalls in percent, as Markdown."""
    rows = list(results)
    lines = [
        "| ranking | "
        + " | ".join([*(f"@{n} files" for n in AT_FILES), *(f"@{n // 1000}k tokens" for n in AT_TOKENS)])
        + " |",
        "|---|" + "---|" * (len(AT_FILES) + len(AT_TOKENS)),
    ]
    for name in rows[0]:
        means = [100 * sum(row[name][column] for row in rows) / len(rows) for column in range(len(rows[0][name]))]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="a git repository, bare or not")
    parser.add_argument("--commits", type=int, default=300, help="how many non-merge commits to go back (default 300)")
    parser.add_argument("--revision", default="HEAD", help="where to start (default HEAD)")
    arguments = parser.parse_args()
    repository = arguments.repository.resolve()
    has_ripgrep = shutil.which("rg") is not None
    if not has_ripgrep:
        print("ripgrep (rg) is not installed: its row is left out")
    began = time.monotonic()
    asked = questions(repository, arguments.revision, arguments.commits)
    usable = [question for question in asked if 0 < len(question.right) <= MAX_RIGHT_FILES and question.message]
    results = [result for question in usable if (result := ask(repository, question, has_ripgrep)) is not None]
    print(f"{repository}: {len(results)} of {len(asked)} commits asked about, up to {arguments.revision}")
    print(f"(left out: no file that was there before, more than {MAX_RIGHT_FILES}, or none that may be read)")
    if results:
        print(f"\nMean recall in percent:\n\n{table(results)}")
        print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
