"""Preparing contexts so that no call can harm another: each in a process that is killed when its call ends first.

A tool's `prepare` is the part of a call whose time and memory nothing else bounds: it goes through whatever a workspace holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

from svc_common import deadline
from svc_common.errors import ErrorReason, ServiceError
from tool_svc.context.material import PreparedContext
from tool_svc.context.request import ContextRequest
from tool_svc.files import WorkspaceFiles
from tool_svc.prepare_process import (
    Answer,
    Failed,
    OtherState,
    OutOfMemory,
    Preparation,
    Prepared,
    PrepareProcess,
    ProcessDied,
    Refused,
    Surroundings,
)
from tool_svc.tools.base import Tool
from tool_svc.workspaces import WorkspaceSnapshot

MEGABYTE = 1024 * 1024

# Seconds after which a preparation no longer keeps others from getting a process.
_LONG = 1.0


class PreparationFailed(ServiceError):
    """A tool could not prepare its context: it crashed, failed or wanted too much memory."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorReason.INTERNAL, message)


class ContextPreparation:
    """Prepares contexts in at most `processes` processes that stay, and in one more for each preparation that takes long.

    Lives on one event loop.
    """

    def __init__(self, files: WorkspaceFiles, surroundings: Surroundings, *, processes: int) -> None:
        self._files = files
        self._surroundings = surroundings
        self._stay = processes
        self._turns = asyncio.Semaphore(processes)
        self._idle: list[PrepareProcess] = []

    async def prepare(
        self, tool: Tool, workspace: str, snapshot: WorkspaceSnapshot, request: ContextRequest
    ) -> PreparedContext:
        """What `tool` shows its instance of a snapshot of `workspace`. Cancelled, it ends the work at once.

        Raises what the tool raises as ServiceError; PreparationFailed.
        """
        left = deadline.remaining()
        seconds = 0.0 if left is None else max(left, 0.001)
        async with self._turn():
            answer = await self._answer(Preparation(tool, workspace, snapshot.id, snapshot.scope, request, seconds))
        match answer:
            case Prepared():
                snapshot.has_differed |= answer.has_differed
                return answer.context
            case OtherState():
                # This process alone holds that state of the index, so it is the only place for the work.
                return await self._files.run(tool.prepare, snapshot, request)
            case Refused():
                raise ServiceError(**answer.parts)
            case Failed():
                raise PreparationFailed("preparing the context failed")

    async def warm_up(self) -> None:
        """Starts a process, so that the first call finds one."""
        self._give_back(await PrepareProcess.start(self._surroundings))

    def close(self) -> None:
        """Ends the processes; all calls have ended."""
        while self._idle:
            self._idle.pop().kill()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A turn among the processes that stay. Who takes long loses it to the next, so that nobody waits for a runaway."""
        await self._turns.acquire()
        with ExitStack() as turn:
            turn.callback(self._turns.release)
            timer = asyncio.get_running_loop().call_later(_LONG, turn.close)
            turn.callback(timer.cancel)
            yield

    async def _answer(self, asked: Preparation) -> Answer:
        if (used := self._idle_process()) is not None:
            # What others left in it may be why it dies; only the death of a fresh one is this call's own doing.
            with suppress(ProcessDied):
                return await self._ask(used, asked)
        try:
            return await self._ask(await PrepareProcess.start(self._surroundings), asked)
        except OutOfMemory as error:
            megabytes = self._surroundings.memory_bytes // MEGABYTE
            message = f"preparing the context takes more than the {megabytes} MB of memory that it may have"
            raise PreparationFailed(message) from error
        except ProcessDied as error:
            raise PreparationFailed("preparing the context ended the process that did it") from error

    async def _ask(self, process: PrepareProcess, asked: Preparation) -> Answer:
        try:
            answer = await process.ask(asked)
        except BaseException:
            process.kill()
            raise
        if isinstance(answer, Failed):  # who knows what it has left behind
            process.kill()
        else:
            self._give_back(process)
        return answer

    def _idle_process(self) -> PrepareProcess | None:
        while self._idle:
            if (process := self._idle.pop()).is_alive:
                return process
        return None

    def _give_back(self, process: PrepareProcess) -> None:
        if len(self._idle) < self._stay:
            self._idle.append(process)
        else:
            process.kill()
