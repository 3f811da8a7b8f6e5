"""Group commit: many concurrent operations share one transaction, so that their one fsync is paid once.

While one batch is being committed, the operations that arrive form the next one. Nothing is delayed on purpose: an operation
that finds the committer idle is committed at once and alone.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from svc_common.errors import ErrorReason, ServiceError

Op = TypeVar("Op")
Out = TypeVar("Out")

_Batch = list[tuple[Op, "asyncio.Future[Out]"]]


class GroupCommitter(Generic[Op, Out]):
    """Runs `execute` on batches of operations in threads of its own.

    `execute` gets a batch and does it in one transaction; it returns one result per operation, in order, where an exception is
    the answer to that operation alone. When it raises, nothing of the batch was committed: its halves are then done each on its
    own, and so on, so that one poisonous operation fails alone, except when the store itself is away (STORE_UNAVAILABLE), which
    all are told.

    More than one thread makes sense only for stores that take concurrent writers.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Op]], Sequence[Out | Exception]],
        *,
        name: str,
        max_batch: int = 512,
        threads: int = 1,
    ) -> None:
        self._execute = execute
        self._max_batch = max_batch
        self._pending: deque[tuple[Op, asyncio.Future[Out]]] = deque()
        self._idle = threads
        self._closed = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[_Batch[Op, Out] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, op: Op) -> Out:
        """Returns the operation's result once it is durable. Cancelling the wait does not undo the operation."""
        [result] = self.enqueue(op)
        return await result

    def enqueue(self, *ops: Op) -> list[asyncio.Future[Out]]:
        """The results to come of operations that go into one commit, in this order, if it has room for all of them."""
        if self._closed:
            raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "the service is stopping")
        futures: list[asyncio.Future[Out]] = [self._loop.create_future() for _ in ops]
        self._pending.extend(zip(ops, futures, strict=True))
        self._drained.clear()
        if self._idle:
            self._hand_over()
        return futures

    async def close(self) -> None:
        """Commits what is pending, then ends the threads."""
        self._closed = True
        await self._drained.wait()
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _hand_over(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(len(self._pending), self._max_batch))]
        self._idle -= 1
        self._batches.put(batch)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            results = self._run([op for op, _ in batch])
            self._loop.call_soon_threadsafe(self._finish, batch, results)

    def _run(self, ops: list[Op]) -> Sequence[Out | Exception]:
        try:
            return self._execute(ops)
        except Exception as error:  # noqa: BLE001 - whatever it is becomes the answer of the operations concerned
            away = isinstance(error, ServiceError) and error.reason is ErrorReason.STORE_UNAVAILABLE
            if away or len(ops) == 1:
                return [error] * len(ops)
            half = len(ops) // 2
            return [*self._run(ops[:half]), *self._run(ops[half:])]

    def _finish(self, batch: _Batch[Op, Out], results: Sequence[Out | Exception]) -> None:
        self._idle += 1
        if self._pending:
            self._hand_over()
        elif self._idle == len(self._threads):
            self._drained.set()
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its waiter was cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
