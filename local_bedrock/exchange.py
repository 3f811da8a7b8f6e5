"""One call's HTTP response: plays the answer onto the connection, turns failures into what Bedrock sends for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from aiohttp import web

from local_bedrock import eventstream
from local_bedrock.answers import Answer, play
from local_bedrock.calls import ModelCall, Usage, compact_json
from local_bedrock.errors import ConnectionDropped, OddEvent, ServiceError, UnmodelledFrame
from local_bedrock.invoice import CallState
from local_bedrock.responses import Dialect

End = Callable[[CallState, str], None]


def error_response(error: ServiceError, call_id: str) -> web.Response:
    """The HTTP form of an error, as before a stream."""
    headers = {"x-amzn-ErrorType": error.name, "x-amzn-RequestId": call_id}
    if error.retry_after is not None:
        headers["Retry-After"] = error.retry_after
    return web.json_response(error.body(), status=error.status, headers=headers)


class Exchange:
    """Sends one answer.

    `end` is called with the call's outcome before the last byte leaves, so that whoever has seen the whole response finds
    the call ended on the invoice.
    """

    def __init__(
        self,
        request: web.Request,
        call_id: str,
        call: ModelCall,
        answer: Answer,
        dialect: Dialect,
        usage: Usage,
        end: End,
    ) -> None:
        self._request = request
        self._call_id = call_id
        self._call = call
        self._answer = answer
        self._dialect = dialect
        self._usage = usage
        self._end = end

    async def whole(self, latency_ms: Callable[[], int]) -> web.StreamResponse:
        """The response of an operation without a stream."""
        try:
            async with aclosing(play(self._answer)) as steps:
                async for _ in steps:
                    pass
            body = compact_json(self._dialect.body(self._answer, self._usage, latency_ms())).encode()
        except ServiceError as error:
            self._end(CallState.FAILED if self._answer.billed else CallState.REFUSED, str(error))
            return error_response(error, self._call_id)
        except (ConnectionDropped, UnmodelledFrame, OddEvent) as failure:
            self._end(CallState.FAILED, type(failure).__name__)
            return self._drop(web.Response())
        headers = self._headers("application/json") | {
            "X-Amzn-Bedrock-Input-Token-Count": str(self._usage.input_tokens),
            "X-Amzn-Bedrock-Output-Token-Count": str(self._usage.output_tokens),
            "Content-Length": str(len(body)),
        }
        connection = _Connection(self._request, web.StreamResponse(headers=headers), self._answer.drop_at_byte)
        try:
            self._end(CallState.COMPLETED, "")
            await connection.write(body)
            return await connection.finish()
        except ConnectionDropped as drop:
            self._end(CallState.FAILED, type(drop).__name__)
            return self._drop(connection.response)

    async def stream(self, latency_ms: Callable[[], int]) -> web.StreamResponse:
        """The response of an operation with a stream."""
        headers = self._headers(eventstream.CONTENT_TYPE) | {"X-Amzn-Bedrock-Content-Type": "application/json"}
        connection = _Connection(self._request, web.StreamResponse(headers=headers), self._answer.drop_at_byte)
        try:
            async with aclosing(play(self._answer)) as steps:
                async for step in steps:
                    for frame in self._dialect.step(step):
                        await connection.write(frame)
            self._end(CallState.COMPLETED, "")
            for frame in self._dialect.end(self._answer, self._usage, latency_ms()):
                await connection.write(frame)
            return await connection.finish()
        except ServiceError as error:
            if not connection.response.prepared:
                self._end(CallState.FAILED if self._answer.billed else CallState.REFUSED, str(error))
                return error_response(error, self._call_id)
            self._end(CallState.FAILED, str(error))
            await connection.write(eventstream.encode_exception(error.stream_name, error.body()))
            return await connection.finish()
        except UnmodelledFrame as error:
            self._end(CallState.FAILED, str(error))
            await connection.write(eventstream.encode_error(error.code, error.message))
            return await connection.finish()
        except OddEvent as event:
            self._end(CallState.FAILED, str(event))
            await connection.write(eventstream.encode_event(event.event_type, event.body))
            return await connection.finish()
        except ConnectionDropped as drop:
            self._end(CallState.FAILED, type(drop).__name__)
            return self._drop(connection.response)

    def _headers(self, content_type: str) -> dict[str, str]:
        return {"Content-Type": content_type, "x-amzn-RequestId": self._call_id}

    def _drop(self, response: web.StreamResponse) -> web.StreamResponse:
        if self._request.transport is not None:
            self._request.transport.close()
        return response


class _Connection:
    """A response whose body ends after `limit` bytes, if there is a limit, by ConnectionDropped."""

    def __init__(self, request: web.Request, response: web.StreamResponse, limit: int | None) -> None:
        self.response = response
        self._request = request
        self._left = limit

    async def write(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        piece = data if self._left is None else data[: self._left]
        if piece:  # an empty chunk would end a chunked body
            await self.response.write(piece)
        if self._left is not None:
            self._left -= len(piece)
            if not self._left:
                raise ConnectionDropped

    async def finish(self) -> web.StreamResponse:
        if self._left is not None:
            raise ConnectionDropped
        await self.response.write_eof()
        return self.response
