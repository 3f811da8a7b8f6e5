"""Reading and parsing many files, in other processes when that pays."""

from __future__ import annotations

import multiprocessing
import os
import posixpath
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from tool_svc.index.database import ContentRow, FileRow
from tool_svc.index.parse import flavour_of, parse_file
from tool_svc.workspace.beneath import open_beneath, open_directory
from tool_svc.workspace.filesystem import read_in
from tool_svc.workspace.refusal import RefusalCode, RefusedError
from tool_svc.workspace.source import FileSource, RawFile
from tool_svc.workspace.text import text_of

BATCH = 100
# Below this the start of a process (about half a second) costs more than it saves.
PARALLEL_FROM = 4_000
MAX_PROCESSES = 4
# A start takes about a second and a batch less.
START_SECONDS = 60.0
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)  # no slots: with them unpickling takes many times as long
class ParsedFile:
    """A file as it was read, and its content unless that is refused or was given before. `file` is None for one that is gone."""

    path: str
    file: FileRow | None
    content: ContentRow | None


class Parser(Protocol):
    """Reads and parses files of one workspace."""

    def parse(self, paths: Sequence[str]) -> Iterator[list[ParsedFile]]:
        """The files at `paths` in batches, in any order."""


class ContentParser:
    """Parses the content of files, each content once: files that repeat one only refer to it."""

    def __init__(self) -> None:
        self._parsed: set[tuple[str, str]] = set()

    def parse(self, path: str, raw: RawFile) -> ParsedFile:
        """What a file that was read in whole says."""
        state = raw.state
        content_hash, flavour = raw.content_hash, flavour_of(path)
        row = FileRow(path, state.size, state.modified_ns, state.signature, content_hash, flavour, None)
        if (content_hash, flavour) in self._parsed:
            return ParsedFile(path, row, None)
        try:
            facts, search = parse_file(path, text_of(raw.content))
        except RefusedError as error:
            return ParsedFile(path, replace(row, content_hash=None, refusal=error.refusal.code.value), None)
        self._parsed.add((content_hash, flavour))
        compliance = facts.header.compliance.value
        kept = ContentRow(
            content_hash, flavour, facts.role.value, compliance, len(facts.changes), facts.to_json(), search
        )
        return ParsedFile(path, row, kept)


class FolderParser:
    """Parses files of the folder `root`, reading at most `max_file_bytes` of each."""

    def __init__(self, root: Path, *, max_file_bytes: int, processes: int | None = None) -> None:
        self._root = root
        self._max_file_bytes = max_file_bytes
        self._processes = processes if processes is not None else min(os.cpu_count() or 1, MAX_PROCESSES)

    def parse(self, paths: Sequence[str]) -> Iterator[list[ParsedFile]]:
        """See `Parser`."""
        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        if self._processes == 1 or len(paths) < PARALLEL_FROM:
            parser = ContentParser()
            return (_parse_batch(parser, self._root, batch, self._max_file_bytes) for batch in batches)
        return self._parse_in_processes(batches)

    def _parse_in_processes(self, batches: list[Sequence[str]]) -> Iterator[list[ParsedFile]]:
        """A batch whose process dies or falls silent is tried again file by file; a file of which that is true is unreadable."""
        todo = deque(batches)
        idle: list[_ParsingProcess] = []
        busy: list[_ParsingProcess] = []
        answers: list[list[ParsedFile]] = []
        try:
            busy += [_ParsingProcess(self._root, self._max_file_bytes) for _ in range(self._processes)]
            while True:
                while idle and todo:
                    idle[-1].give(todo.popleft())
                    busy.append(idle.pop())
                yield from answers  # the processes work on meanwhile
                if not busy:
                    return
                answers = []
                wait(
                    [process.pipe for process in busy],
                    max(0.0, min(process.due for process in busy) - time.monotonic()),
                )
                for process in busy.copy():
                    try:
                        parsed = process.answer()
                    except EOFError:
                        busy.remove(process)
                        process.end()
                        if len(process.batch) == 1:
                            answers.append([_unread(process.batch[0], RefusalCode.UNREADABLE)])
                        else:
                            todo.extend([path] for path in process.batch)
                        busy.append(_ParsingProcess(self._root, self._max_file_bytes))
                        continue
                    if parsed is not None:
                        busy.remove(process)
                        idle.append(process)
                        answers.append(parsed)
        finally:
            for process in (*busy, *idle):
                process.end()


class _ParsingProcess:
    """A process that parses one batch at a time, and at first none: that answer says that it has started.

    It ends when its pipe closes, so also when this process is killed.
    """

    def __init__(self, root: Path, max_file_bytes: int) -> None:
        # Not fork: the caller's process has threads (gRPC's among them) that would not survive it.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, root, max_file_bytes), daemon=True)
        self._process.start()
        theirs.close()
        self.batch: Sequence[str] = ()
        self.due = time.monotonic() + START_SECONDS

    def give(self, batch: Sequence[str]) -> None:
        """Gives it the next batch. Both ends never write at once, so full pipes cannot lock each other."""
        self.batch, self.due = batch, time.monotonic() + ANSWER_SECONDS
        with suppress(OSError):  # one that has died is told by its answer
            self.pipe.send(batch)

    def answer(self) -> list[ParsedFile] | None:
        """The batch as it was parsed; None while that may still come. Raises EOFError when it will not, ChildProcessError when the
        process could not even start."""
        if self.pipe.poll():
            with suppress(EOFError, OSError):
                parsed: list[ParsedFile] = self.pipe.recv()
                return parsed
        elif time.monotonic() < self.due:
            return None
        if not self.batch:
            raise ChildProcessError("a parsing process does not start")
        raise EOFError("a parsing process has died or fallen silent")

    def end(self) -> None:
        """Ends it whatever it does."""
        self.pipe.close()
        self._process.kill()
        self._process.join()


class SourceParser:
    """Parses files that `source` reads, in this process."""

    def __init__(self, source: FileSource, *, max_file_bytes: int) -> None:
        self._source = source
        self._max_file_bytes = max_file_bytes

    def parse(self, paths: Sequence[str]) -> Iterator[list[ParsedFile]]:
        """See `Parser`."""
        parser = ContentParser()
        for start in range(0, len(paths), BATCH):
            yield [self._parse(parser, path) for path in paths[start : start + BATCH]]

    def _parse(self, parser: ContentParser, path: str) -> ParsedFile:
        try:
            return parser.parse(path, self._source.read(path, self._max_file_bytes))
        except RefusedError:
            # The source has lost a content that it lists. It may be there again the next time, so nothing is noted.
            return ParsedFile(path, None, None)


def _serve(pipe: Connection, root: Path, max_file_bytes: int) -> None:
    """Body of a parsing process."""
    parser = ContentParser()
    batch: Sequence[str] = ()
    with suppress(EOFError, ConnectionError):
        while True:
            pipe.send(_parse_batch(parser, root, batch, max_file_bytes))
            batch = pipe.recv()


def _parse_batch(parser: ContentParser, root: Path, paths: Sequence[str], max_file_bytes: int) -> list[ParsedFile]:
    parsed: list[ParsedFile] = []
    for directory, group in groupby(paths, posixpath.dirname):
        in_directory = list(group)
        try:
            with open_directory(str(root)) as handle, open_beneath(handle, directory) as parent:
                parsed += [_parse_in(parser, parent, path, max_file_bytes) for path in in_directory]
        except RefusedError as error:
            parsed += [_unread(path, error.refusal.code) for path in in_directory]
    return parsed


def _parse_in(parser: ContentParser, directory: int, path: str, max_file_bytes: int) -> ParsedFile:
    try:
        raw = read_in(directory, posixpath.basename(path), max_file_bytes + 1)
    except RefusedError as error:
        return _unread(path, error.refusal.code)
    if len(raw.content) > max_file_bytes:  # grew since it was listed
        return _unread(path, RefusalCode.TOO_LARGE)
    return parser.parse(path, raw)


def _unread(path: str, code: RefusalCode) -> ParsedFile:
    if code is RefusalCode.NOT_FOUND:
        return ParsedFile(path, None, None)
    return ParsedFile(path, FileRow(path, 0, 0, "", None, flavour_of(path), code.value), None)
