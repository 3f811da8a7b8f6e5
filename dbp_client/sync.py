"""Asking from Python, synchronously: the asynchronous client on an event loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar, Unpack

from dbp.coordinator.v1 import coordinator_pb2
from dbp.tool.v1 import tool_pb2

from dbp_client.client import AskOptions, AsyncClient, RequestEvent
from svc_common.settings import CommonSettings

T = TypeVar("T")

_LET_GO_SECONDS = 10.0


class Client:
    """A connection to a house, for code without an event loop; a context manager. What it has works as in `AsyncClient`."""

    def __init__(self, settings: CommonSettings | None = None, *, patience: float = 5.0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dbp-client", daemon=True)
        self._client = AsyncClient(settings, patience=patience)

    def __enter__(self) -> Client:
        self._thread.start()
        self._run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._client.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, query: str, **options: Unpack[AskOptions]) -> Iterator[RequestEvent]:
        return self._iterate(lambda: self._client.ask(query, **options))

    def watch(self, request_id: str, after_sequence: int = 0) -> Iterator[RequestEvent]:
        return self._iterate(lambda: self._client.watch(request_id, after_sequence))

    def get(self, request_id: str) -> coordinator_pb2.Request:
        return self._run(self._client.get(request_id))

    def list_requests(self, **fields: Any) -> coordinator_pb2.ListRequestsResponse:
        return self._run(self._client.list_requests(**fields))

    def cancel(self, request_id: str) -> coordinator_pb2.Request:
        return self._run(self._client.cancel(request_id))

    def tools(self) -> Sequence[tool_pb2.Tool]:
        return self._run(self._client.tools())

    def read_files(self, paths: Sequence[str], workspace: str = "default") -> tool_pb2.ReadFilesResponse:
        return self._run(self._client.read_files(paths, workspace))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does the work on the client's loop. An interrupt here (Ctrl-C) cancels it there, and waits until it has let go."""
        begun: list[asyncio.Task[T]] = []
        ended = threading.Event()

        def begin() -> None:
            begun.append(self._loop.create_task(work))
            begun[0].add_done_callback(lambda _: ended.set())

        self._loop.call_soon_threadsafe(begin)
        try:
            ended.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(lambda: begun[0].cancel())
            ended.wait(_LET_GO_SECONDS)
            raise
        return begun[0].result()

    def _iterate(self, begin: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        items = begin()
        try:
            while True:
                try:
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            self._run(items.aclose())


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)
