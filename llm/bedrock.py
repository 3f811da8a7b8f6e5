"""The one owner of boto3's Bedrock client: calls run in its threads, their events are handed to the event loop.

boto3 cannot be interrupted: a reader that waits holds its stream, and before the first byte there is not even a stream. So each
call knows the socket it is sent on, and aborting shuts that socket down, at any stage. Finding the socket takes a hook on a private
part of botocore; should that part change, calls still work and end at their read timeout when aborted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import boto3
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config
from botocore.eventstream import ParserError
from urllib3 import HTTPConnectionPool

from llm.bedrock_errors import EXPECTED, Kind, ModelCallError, error_from
from llm.settings import LlmSettings
from llm.slots import Slots

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

_log = logging.getLogger(__name__)

# A finished response is read to its end, so that its connection can be used again, but not waited for longer than this.
_LEAVE_SECONDS = 1.0

Event = dict[str, Any]
"""One event of ConverseStream, e.g. {"contentBlockDelta": {...}}."""


class _Events(Protocol):
    def __iter__(self) -> Iterator[Event]: ...

    def close(self) -> None: ...


class _Aborted(OSError):
    """Raised in a call's thread instead of sending what nobody wants any more."""


class _Calling:
    """One call as its thread sees it. The connection it uses says whose it is, so that an abort never hits a later user of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: _OwnedConnection | None = None
        self._is_aborted = False
        self.is_sent = False
        """It has gone out, or may have. Once aborted, a call that has not never will."""

    def abort(self) -> None:
        """Shuts the call's connection down, or keeps it from being sent. Never blocks."""
        with self._lock:
            self._is_aborted = True
            connection = self._connection
        if connection is not None:
            connection.shut_down_for(self)

    def send_on(self, connection: _OwnedConnection | None) -> None:
        """Says that it is about to be sent; None: on a connection that is not known."""
        with self._lock:
            self.check()
            self._connection = connection
            self.is_sent = True

    def check(self) -> None:
        if self._is_aborted:
            raise _Aborted("the call was given up")


_calling: ContextVar[_Calling | None] = ContextVar("bedrock_call", default=None)


class _OwnedConnection:
    """Makes a urllib3 connection known to the call that uses it."""

    sock: socket.socket | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owner: _Calling | None = None
        self._owner_lock = threading.Lock()
        # A connection forgets its socket as soon as a response says "close", long before that response has been read.
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of the connection class this is mixed into
        self._socket = self.sock
        if call := _calling.get():
            call.check()

    def request(self, *args: Any, **kwargs: Any) -> Any:
        if call := _calling.get():
            with self._owner_lock:
                self._owner = call
            call.send_on(self)
        return super().request(*args, **kwargs)  # type: ignore[misc]

    def shut_down_for(self, call: _Calling) -> None:
        with self._owner_lock:
            if self._owner is call and self._socket is not None:
                with contextlib.suppress(OSError):  # closed already
                    self._socket.shutdown(socket.SHUT_RDWR)


class _HttpConnection(_OwnedConnection, AWSHTTPConnection):  # type: ignore[misc]  # the stubs disagree with each other
    pass


class _HttpsConnection(_OwnedConnection, AWSHTTPSConnection):  # type: ignore[misc]  # likewise
    pass


class _HttpPool(AWSHTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(AWSHTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class EventStream:
    """The events of one running call, on the event loop's side."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, knows_its_socket: bool) -> None:
        self._loop = loop
        self._knows_its_socket = knows_its_socket
        self._calling = _Calling()
        self._inbox: deque[Event | ModelCallError | None] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_waking = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._waiting_since = 0.0
        self._patience = 0.0
        self.has_ended = False
        """The thread is done with it."""

    async def next(self, patience: float) -> list[Event]:
        """The events that have come since, at least one; none at the end of the response.

        Raises ModelCallError when the call has failed, also (LOST) when nothing came for `patience` seconds.
        """
        if not self._inbox:
            await self._something(patience)
        events: list[Event] = []
        while isinstance(item := self._inbox[0] if self._inbox else None, dict):
            events.append(item)
            self._inbox.popleft()
        # The end stays in the inbox, to be met after the events before it have been dealt with.
        if not events and isinstance(item, ModelCallError):
            raise item
        return events

    @property
    def is_sent(self) -> bool:
        """The request was sent, or may have been."""
        return self._calling.is_sent

    def abort(self) -> None:
        """Closes the call's connection at once."""
        self._calling.abort()

    def run(self, open_stream: Callable[[], _Events]) -> None:
        """The thread's side: makes the call and hands on what comes. Raises nothing."""
        token = _calling.set(self._calling)
        begun = False
        end: ModelCallError | None = None
        try:
            self._calling.check()
            if not self._knows_its_socket:  # nobody can tell when it goes out, so it is taken to do so from here on
                self._calling.send_on(None)
            with contextlib.closing(open_stream()) as events:
                begun = True
                for event in events:
                    self._calling.check()
                    self._hand_on(event)
        except EXPECTED as error:
            end = error_from(error, is_sent=self._calling.is_sent, in_stream=begun)
        except BaseException as error:
            end = ModelCallError(Kind.INVALID, f"a bug in the call: {type(error).__name__}", begun=True)
            raise
        finally:
            _calling.reset(token)
            self._hand_on(end)

    async def _something(self, patience: float) -> None:
        self._waiting_since = self._loop.time()
        if self._watchdog is None or patience != self._patience:
            self.unwatch()
            self._patience = patience
            self._watchdog = self._loop.call_later(patience, self._look)
        while True:
            self._is_waking = False
            # Looked at after the flag is down: the thread either saw it down and wakes us, or put its item in before.
            if self._inbox:
                return
            self._waiter = self._loop.create_future()
            await self._waiter

    def _look(self) -> None:
        """Ends a wait that has become too long. One timer looks after many waits: to set one for each costs too much."""
        self._watchdog = None
        if self._waiter is None or self._waiter.done():
            return
        left = self._waiting_since + self._patience - self._loop.time()
        if left > 0:
            self._watchdog = self._loop.call_later(left, self._look)
        else:
            message = f"nothing came from the model for {self._patience:.1f} s"
            self._waiter.set_exception(ModelCallError(Kind.LOST, message, begun=True))

    def unwatch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hand_on(self, item: Event | ModelCallError | None) -> None:
        self._inbox.append(item)
        if not self._is_waking:
            self._is_waking = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._calling.abort()


class _PlainParser:
    """Reads events as the JSON they are.

    botocore checks each one against the service's description, which takes more time than all else that a piece of text needs. It
    still reads what is no event: errors.
    """

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def parse(self, response: Mapping[str, Any], shape: Any) -> Any:
        if response["status_code"] != 200:
            return self._parser.parse(response, shape)
        try:
            return {response["headers"][":event-type"]: json.loads(response["body"].decode())}
        except (KeyError, ValueError, RecursionError) as error:
            raise ParserError("an event that is no JSON") from error


class BedrockClient:
    """Built once per process, on its event loop. `session` is for callers with credentials of their own, as tests have."""

    def __init__(self, settings: LlmSettings, session: boto3.Session | None = None) -> None:
        made = session or boto3.Session()
        self._client: BedrockRuntimeClient = made.client(
            "bedrock-runtime",
            region_name=settings.region or made.region_name or "us-east-1",
            config=Config(
                # botocore repeats a call whose answer timed out, which may be billed twice: the retry loop is the gateway's.
                retries={"total_max_attempts": 1},
                connect_timeout=settings.connect_seconds,
                # The gateway's own limits come first; this one ends a thread that could not be aborted.
                read_timeout=max(settings.first_event_seconds, settings.stall_seconds) + 5,
                max_pool_connections=settings.concurrent_calls,
                tcp_keepalive=True,
            ),
        )
        self._pools: list[HTTPConnectionPool] = []
        self.can_abort = _hook_connections(self._client, self._pools)
        self._slots = Slots(settings.concurrent_calls)
        self._threads = ThreadPoolExecutor(settings.concurrent_calls, thread_name_prefix="bedrock")
        self._running: set[EventStream] = set()

    @asynccontextmanager
    async def converse(
        self, request: Mapping[str, Any], *, streaming: bool, priority: int = 0
    ) -> AsyncIterator[EventStream]:
        """Makes a call with the arguments of boto3's `converse_stream` (or `converse`, shown as events too).

        Calls of a higher priority go first where calls wait for others to end.
        An exception within the block aborts the call. One left in peace has a second to end by itself.
        """
        loop = asyncio.get_running_loop()
        await self._slots.acquire(priority)
        stream = EventStream(loop, knows_its_socket=self.can_abort)
        self._running.add(stream)

        def ended(_: object) -> None:
            stream.has_ended = True
            self._running.discard(stream)
            self._slots.release()

        opener = self._open_stream if streaming else self._open_whole
        loop.run_in_executor(self._threads, stream.run, lambda: opener(request)).add_done_callback(ended)
        try:
            yield stream
        except BaseException:
            stream.abort()
            raise
        finally:
            stream.unwatch()
        if not stream.has_ended:
            loop.call_later(_LEAVE_SECONDS, lambda: None if stream.has_ended else stream.abort())

    async def close(self) -> None:
        """Aborts what still runs and ends threads and connections."""
        for stream in self._running:
            stream.abort()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self._client.close()
        for pool in self._pools:  # urllib3 would leave that to the garbage collector
            pool.close()

    def _open_stream(self, request: Mapping[str, Any]) -> _Events:
        response: Any = self._client.converse_stream(**request)
        stream = response["stream"]
        if hasattr(stream, "_parser"):
            stream._parser = _PlainParser(stream._parser)
        events: _Events = stream
        return events

    def _open_whole(self, request: Mapping[str, Any]) -> _Events:
        response: Any = self._client.converse(**request)
        # botocore does not notice that a body breaks off: it shows what is missing as left out.
        if not {"output", "stopReason", "usage"} <= response.keys() or "message" not in response["output"]:
            raise ParserError("a response that breaks off")
        return _as_events(response)


def _as_events(response: Mapping[str, Any]) -> Generator[Event, None, None]:
    yield {"messageStart": {"role": "assistant"}}
    for index, block in enumerate(response["output"]["message"].get("content", ())):
        if "text" in block:
            yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": {"text": block["text"]}}}
        elif "toolUse" in block:
            use = block["toolUse"]
            yield {"contentBlockStart": {"contentBlockIndex": index, "start": {"toolUse": use}}}
            piece = {"input": json.dumps(use.get("input", {}))}
            yield {"contentBlockDelta": {"contentBlockIndex": index, "delta": {"toolUse": piece}}}
        yield {"contentBlockStop": {"contentBlockIndex": index}}
    yield {"messageStop": {"stopReason": response["stopReason"]}}
    yield {"metadata": {"usage": response["usage"]}}


def _hook_connections(client: BedrockRuntimeClient, pools: list[HTTPConnectionPool]) -> bool:
    """Has the client make connections that know their call, in pools that are listed. False when botocore is built otherwise."""

    def listed(pool_class: type[HTTPConnectionPool]) -> Callable[..., HTTPConnectionPool]:
        def make(*args: Any, **kwargs: Any) -> HTTPConnectionPool:
            pools.append(pool_class(*args, **kwargs))
            return pools[-1]

        return make

    try:
        classes = client._endpoint.http_session._pool_classes_by_scheme  # type: ignore[attr-defined]
        classes["http"], classes["https"] = listed(_HttpPool), listed(_HttpsPool)
    except (AttributeError, TypeError):
        _log.warning("this botocore does not let calls be aborted: they run on until their read timeout")
        return False
    return True
