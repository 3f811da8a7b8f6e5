"""Asking from Python, synchronously: the asynchronous client on an event loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from dbp_client.client import AsyncClient
from svc_common.settings import CommonSettings

P = ParamSpec("P")
T = TypeVar("T")


def _waiting(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """The method for those who wait for what it returns."""

    @wraps(method)
    def wait(client: Client, /, *args: P.args, **options: P.kwargs) -> T:
        return client._run(method(client._client, *args, **options))

    return wait


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    """The method for those who wait for each of its items. Leaving the iteration leaves it there, too."""

    @wraps(method)
    def iterate(client: Client, /, *args: P.args, **options: P.kwargs) -> Generator[T, None, None]:
        steps = _Steps(method(client._client, *args, **options))
        try:
            while True:
                try:
                    yield client._run(steps.next())
                except StopAsyncIteration:
                    return
        finally:
            client._run(steps.close())

    return iterate


class _Steps(Generic[T]):
    """The items of an asynchronous generator, one by one."""

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._step: asyncio.Task[Any] | None = None

    async def next(self) -> T:
        self._step = asyncio.current_task()
        return await anext(self._items)

    async def close(self) -> None:
        """Ends a step, too, that its caller was interrupted in (Ctrl-C), wherever that was."""
        if self._step is not None:
            self._step.cancel()
            await asyncio.wait({self._step})
        await self._items.aclose()


class Client:
    """A connection to a house, for code without an event loop. A context manager; its methods are those of `AsyncClient`."""

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

    ask = _iterating(AsyncClient.ask)
    watch = _iterating(AsyncClient.watch)
    get = _waiting(AsyncClient.get)
    list_requests = _waiting(AsyncClient.list_requests)
    cancel = _waiting(AsyncClient.cancel)
    tools = _waiting(AsyncClient.tools)
    read_files = _waiting(AsyncClient.read_files)
    prepare_context = _waiting(AsyncClient.prepare_context)
    audit = _waiting(AsyncClient.audit)
    verify_ledger = _waiting(AsyncClient.verify_ledger)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
