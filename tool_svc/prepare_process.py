"""A process in which contexts are prepared, one at a time. It opens the indexes by itself; only plain data crosses its border.

Forked from multiprocessing's fork server, which has loaded this module and runs no threads, so that one starts in milliseconds;
never from the service itself, whose threads (gRPC's among them) would not survive a fork.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import pickle
import resource
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from multiprocessing.process import BaseProcess
from pathlib import Path
from select import select
from typing import Any

from svc_common.errors import ServiceError
from tool_svc.context.material import PreparedContext
from tool_svc.context.request import ContextRequest
from tool_svc.tools.base import Tool
from tool_svc.workspace.scope import Scope
from tool_svc.workspaces import Workspaces

logger = logging.getLogger(__name__)

_LENGTH_BYTES = 4
# Seconds without work after which a process lets go of the states it has opened.
_REST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process is made with: workspaces by name, where their indexes are, the bytes of address space it may have, and how
    texts become vectors, if they do."""

    roots: Mapping[str, str]
    indexes: Path
    memory_bytes: int
    embeddings: str = ""


@dataclass(frozen=True, slots=True)
class Preparation:
    """One context to prepare, in the state `snapshot_id` of a workspace, within `seconds` (0: no limit)."""

    tool: Tool
    workspace: str
    snapshot_id: str
    scope: Scope
    request: ContextRequest
    seconds: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A context, and whether a file that was read for it was no longer as in the snapshot."""

    context: PreparedContext
    has_differed: bool


@dataclass(frozen=True, slots=True)
class OtherState:
    """The index has moved on; this process cannot open the state that was asked for."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The tool raised a ServiceError, of these parts."""

    parts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The tool raised something else, which is in the log."""


Answer = Prepared | OtherState | Refused | Failed


class ProcessDied(Exception):
    """The process ended before it had answered."""


class OutOfMemory(ProcessDied):
    """The process came to its limit of memory and is of no more use."""


class PrepareProcess:
    """The service's end of one process. After `kill` it is of no more use."""

    def __init__(self, process: BaseProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, surroundings: Surroundings) -> PrepareProcess:
        """Starts one. The first of a service takes about a second, the time of an interpreter to load the modules."""
        ours, theirs = socket.socketpair()
        process = await asyncio.to_thread(_start, theirs, surroundings)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def is_alive(self) -> bool:
        return not self._reader.at_eof()

    async def ask(self, preparation: Preparation) -> Answer:
        """What came of a preparation. Raises ProcessDied, OutOfMemory."""
        try:
            self._writer.write(pickle.dumps(preparation))
            length = await self._reader.readexactly(_LENGTH_BYTES)
            answer: Answer | OutOfMemory = pickle.loads(await self._reader.readexactly(int.from_bytes(length)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ProcessDied from error
        if isinstance(answer, OutOfMemory):
            raise answer
        return answer

    def kill(self) -> None:
        """Ends the process whatever it does."""
        self._process.kill()
        self._writer.close()


def _start(theirs: socket.socket, surroundings: Surroundings) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with theirs:
        process = context.Process(target=_serve, args=(theirs, surroundings), daemon=True)
        process.start()
    return process


def _serve(service: socket.socket, surroundings: Surroundings) -> None:
    """Body of a process. It ends when the service closes its end, so also when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the service's matter
    resource.setrlimit(resource.RLIMIT_AS, (surroundings.memory_bytes, surroundings.memory_bytes))

    opened: dict[str, Workspaces] = {}
    with service, service.makefile("rwb") as stream:
        while True:
            # Who waits for work shall not hold up SQLite's log; who has plenty need not open what is open.
            if not select([service], [], [], _REST_SECONDS)[0]:
                for workspaces in opened.values():
                    workspaces.drop_states()
            preparation = _received(stream)
            if preparation is None:
                return
            # A runaway whose service was killed has nobody to end it but the kernel.
            signal.setitimer(signal.ITIMER_REAL, preparation.seconds)
            answer = _answer(surroundings, opened, preparation)
            signal.setitimer(signal.ITIMER_REAL, 0)
            content = pickle.dumps(answer)
            stream.write(len(content).to_bytes(_LENGTH_BYTES) + content)
            stream.flush()


def _received(stream: BufferedIOBase) -> Preparation | None:
    try:
        preparation: Preparation = pickle.load(stream)
    except (EOFError, ConnectionError):
        return None
    return preparation


def _answer(
    surroundings: Surroundings, opened: dict[str, Workspaces], preparation: Preparation
) -> Answer | OutOfMemory:
    """Prepares. `opened` are the workspaces that were asked for; the others need not be looked at."""
    name = preparation.workspace
    try:
        if name not in opened:
            roots = {name: surroundings.roots[name]}
            opened[name] = Workspaces(roots, surroundings.indexes, embeddings=surroundings.embeddings)
        snapshot = opened[name].opened_snapshot(name, preparation.snapshot_id, preparation.scope)
        if snapshot is None:
            return OtherState()
        with snapshot:
            return Prepared(preparation.tool.prepare(snapshot, preparation.request), snapshot.has_differed)
    except ServiceError as error:
        return Refused(vars(error))
    except MemoryError:
        return OutOfMemory()
    except Exception:  # whatever a tool does wrong is its own call's matter
        logger.exception("%s failed to prepare its context", preparation.tool.name)
        return Failed()
