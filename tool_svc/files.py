"""The threads in which files are read, and one refresh of a workspace for all who ask at the same time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from svc_common.errors import ServiceError
from tool_svc.threads import DaemonThreads
from tool_svc.workspace.scope import WHOLE, Scope
from tool_svc.workspaces import Workspaces, WorkspaceSnapshot

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", WorkspaceSnapshot, WorkspaceSnapshot | None)

logger = logging.getLogger(__name__)


class WorkspaceFiles:
    """Blocking file work on behalf of coroutines. Lives on one event loop."""

    def __init__(self, workspaces: Workspaces, *, threads: int) -> None:
        self._workspaces = workspaces
        self._threads = DaemonThreads(threads, name="files")
        self._refreshes: dict[str, asyncio.Task[None]] = {}

    @property
    def names(self) -> list[str]:
        return self._workspaces.names

    @asynccontextmanager
    async def snapshot(
        self, workspace: str, scope: Scope = WHOLE, *, id_: str = ""
    ) -> AsyncIterator[WorkspaceSnapshot]:
        """A workspace in the state of this id, or in the present one when there is none or it is not kept any more, for the
        length of a block. Raises WORKSPACE_NOT_FOUND."""
        snapshot = await self._taken(self._workspaces.kept_snapshot, workspace, id_, scope) if id_ else None
        if snapshot is None:
            snapshot = await self._present(workspace, scope)
        try:
            yield snapshot
        finally:
            # Not awaited: the block may be left by a cancellation, and a thread that still reads holds up the closing.
            self._threads.submit(snapshot.close)

    async def _present(self, workspace: str, scope: Scope) -> WorkspaceSnapshot:
        refresh = self._refreshes.get(workspace)
        if refresh is None:
            refresh = asyncio.create_task(self.run(self._workspaces.refresh, workspace))
            self._refreshes[workspace] = refresh
            refresh.add_done_callback(lambda _: self._refreshes.pop(workspace, None))
        # Who stops waiting must not stop it for the others.
        await asyncio.shield(refresh)
        return await self._taken(self._workspaces.snapshot, workspace, scope)

    async def _taken(self, take: Callable[P, S], *arguments: P.args, **named: P.kwargs) -> S:
        """What `take` returns; when nobody waits for it any more, it is closed."""
        taking = self._threads.submit(take, *arguments, **named)
        try:
            return await asyncio.wrap_future(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_close)
            raise

    async def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Does blocking work in a thread. A cancelled wait leaves work that has begun to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *arguments, **named))

    async def warm_up(self) -> None:
        """Brings all indexes up to date, so that the first call finds them so."""
        for name in self.names:
            try:
                async with self.snapshot(name) as snapshot:
                    logger.info("workspace %s: %d files, snapshot %s", name, snapshot.files_total, snapshot.id)
            except ServiceError as error:
                logger.warning("workspace %s: %s", name, error)

    def close(self) -> None:
        """Waits for no work that has begun: an index that is being built goes on from where it is the next time."""
        self._threads.close()


def _close(taken: Future[WorkspaceSnapshot] | Future[WorkspaceSnapshot | None]) -> None:
    if not taken.cancelled() and taken.exception() is None and (snapshot := taken.result()) is not None:
        snapshot.close()
