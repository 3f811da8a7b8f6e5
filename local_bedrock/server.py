"""The endpoint: routes of Bedrock Runtime and of `/_local/`, and how it is started and stopped."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import cast

from aiohttp import web

from local_bedrock.answers import Answer
from local_bedrock.backends.base import Backend
from local_bedrock.backends.llama import LlamaBackend
from local_bedrock.backends.script import Decide, Script, ScriptBackend, ScriptError, load_script, parse_script
from local_bedrock.calls import Json, ModelCall, Usage
from local_bedrock.errors import ServiceError, invalid
from local_bedrock.exchange import Exchange, error_response
from local_bedrock.invoice import CallState, Invoice, to_json
from local_bedrock.invoke_bodies import dialect_of, to_converse
from local_bedrock.prompt_cache import PromptCache
from local_bedrock.responses import Anthropic, Converse, Dialect, Nova
from local_bedrock.settings import LocalBedrockSettings
from local_bedrock.wire import check_authorization, check_countable, check_model, parse_converse

MAX_BODY_BYTES = 25_000_000
STOP_SECONDS = 0.2  # running calls are cut off then: this endpoint owes nobody an answer

_STREAMED = {"converse-stream", "invoke-with-response-stream"}
_NATIVE = {"invoke", "invoke-with-response-stream"}


class Endpoint:
    """State of one running endpoint, and its request handlers."""

    def __init__(self, settings: LocalBedrockSettings, backend: Backend) -> None:
        self.invoice = Invoice(settings.invoice_records)
        self.backend = backend
        self.running: set[str] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self._settings = settings
        self._prompt_cache = PromptCache(settings.cache_min_tokens, time.monotonic)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refuse_as_bedrock_does])
        for operation in ("converse", "converse-stream", "invoke", "invoke-with-response-stream"):
            app.router.add_post(f"/model/{{model_id}}/{operation}", functools.partial(self._call, operation))
        app.router.add_post("/model/{model_id}/count-tokens", self._count_tokens)
        app.router.add_get("/_local/invoice", self._show_invoice)
        app.router.add_get("/_local/calls", self._show_calls)
        app.router.add_post("/_local/script", self._load_script)
        return app

    def load_script(self, script: Script | Decide) -> None:
        """Replace the script; rule counts, invoice and prompt cache start afresh. Raises ScriptError if there is none."""
        if not isinstance(self.backend, ScriptBackend):
            raise ScriptError("this endpoint answers from the bundled model, not from a script")
        self.backend.load(script)
        self.invoice.clear()
        self._prompt_cache = PromptCache(self._settings.cache_min_tokens, time.monotonic)

    async def _call(self, operation: str, request: web.Request) -> web.StreamResponse:
        call_id = str(uuid.uuid4())
        try:
            call = await self._parse(operation, request)
        except ServiceError as error:
            return error_response(error, call_id)
        self.invoice.open(call_id, call)
        self.running.add(call_id)
        self.idle.clear()
        try:
            return await self._respond(request, call_id, call)
        except ServiceError as error:
            self.invoice.bill(call_id, Usage())
            self._end(call_id, CallState.REFUSED, str(error))
            return error_response(error, call_id)
        except (asyncio.CancelledError, ConnectionError):
            self._end(call_id, CallState.DISCONNECTED, "")
            raise
        finally:
            if call_id in self.running:  # a fault of this endpoint itself; aiohttp answers it with a 500
                self._end(call_id, CallState.FAILED, "endpoint failure")

    async def _respond(self, request: web.Request, call_id: str, call: ModelCall) -> web.StreamResponse:
        started = time.monotonic()
        counts = await self.backend.count_tokens([s for s in call.segments() if isinstance(s, str)])
        # Until the answer is known, a client that leaves owes the most it may come to.
        self.invoice.bill(call_id, Usage(input_tokens=sum(counts), output_tokens=call.max_tokens))
        answer = await self.backend.answer(call)
        usage = Usage()
        if answer.billed:
            usage = _billed(self._prompt_cache.input_usage(call.model_id, call.segments(), counts), answer)
        self.invoice.bill(call_id, usage, answer.rule)
        end = functools.partial(self._end, call_id)
        exchange = Exchange(request, call_id, call, answer, _dialect(call_id, call, usage), usage, end)
        respond = exchange.stream if call.operation in _STREAMED else exchange.whole
        return await respond(lambda: int((time.monotonic() - started) * 1000))

    def _end(self, call_id: str, state: CallState, error: str) -> None:
        self.invoice.close(call_id, state, error)
        self.running.discard(call_id)
        if not self.running:
            self.idle.set()

    async def _parse(self, operation: str, request: web.Request) -> ModelCall:
        model_id, body = await self._checked_body(request)
        if operation in _NATIVE:
            body = to_converse(body, dialect_of(model_id)) | _invoke_headers(request)
        return parse_converse(
            body, operation=operation, model_id=model_id, default_max_tokens=self._settings.default_max_tokens
        )

    async def _checked_body(self, request: web.Request) -> tuple[str, Mapping[str, Json]]:
        model_id = request.match_info["model_id"]
        check_authorization(request.headers.get("Authorization"))
        check_model(model_id, self._settings.models)
        return model_id, _json_object(await request.read())

    async def _count_tokens(self, request: web.Request) -> web.Response:
        try:
            model_id, body = await self._checked_body(request)
            check_countable(model_id)
            call = parse_converse(
                _counted_body(body, model_id),
                operation="count-tokens",
                model_id=model_id,
                default_max_tokens=self._settings.default_max_tokens,
                ends_with_user=False,
            )
        except ServiceError as error:
            return error_response(error, str(uuid.uuid4()))
        counts = await self.backend.count_tokens([s for s in call.segments() if isinstance(s, str)])
        return web.json_response({"inputTokens": sum(counts)})

    async def _show_invoice(self, _: web.Request) -> web.Response:
        return web.json_response({"records": to_json(self.invoice.records())})

    async def _show_calls(self, _: web.Request) -> web.Response:
        return web.json_response({"running": len(self.running)})

    async def _load_script(self, request: web.Request) -> web.Response:
        try:
            self.load_script(parse_script(await request.text()))
        except ScriptError as error:
            return web.json_response({"message": str(error)}, status=400)
        return web.json_response({})


class RunningEndpoint:
    """A started endpoint. Stop it, or use it as an async context manager."""

    def __init__(self, endpoint: Endpoint, runner: web.AppRunner, host: str, port: int) -> None:
        self._endpoint = endpoint
        self._runner = runner
        self.port = port
        self.url = f"http://{host}:{port}"

    @property
    def invoice(self) -> Invoice:
        return self._endpoint.invoice

    @property
    def running_calls(self) -> int:
        """Calls whose response has not ended and whose client has not left."""
        return len(self._endpoint.running)

    async def wait_idle(self, timeout: float) -> None:
        """Return once no call is running. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            await self._endpoint.idle.wait()

    def load_script(self, script: Script | Decide) -> None:
        """Replace the script; see Endpoint.load_script."""
        self._endpoint.load_script(script)

    async def stop(self) -> None:
        """Close every connection and free the backend. Idempotent."""
        await self._runner.cleanup()
        await self._endpoint.backend.close()

    async def __aenter__(self) -> RunningEndpoint:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


async def start(settings: LocalBedrockSettings, script: Script | Decide | None = None) -> RunningEndpoint:
    """Serve on the running loop until stopped. `script` stands in for the setting of that name.

    Raises ScriptError for a script that cannot be read, ModelFilesMissing if the bundled model is not installed, and
    OSError if the address is taken.
    """
    endpoint = Endpoint(settings, await _backend(settings, script))
    runner = web.AppRunner(endpoint.app(), handler_cancellation=True, shutdown_timeout=STOP_SECONDS, access_log=None)
    try:
        await runner.setup()
        await web.TCPSite(runner, settings.host, settings.port).start()
    except BaseException:
        await runner.cleanup()
        await endpoint.backend.close()
        raise
    host, port = cast(tuple[str, int], runner.addresses[0][:2])
    return RunningEndpoint(endpoint, runner, host, port)


async def _backend(settings: LocalBedrockSettings, script: Script | Decide | None) -> Backend:
    if settings.backend == "script":
        return ScriptBackend(script or (load_script(settings.script) if settings.script else Script()))
    return await LlamaBackend.load(settings.prompt_tokens)


@web.middleware
async def _refuse_as_bedrock_does(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Gives what the HTTP server itself refuses the form of an error of the service."""
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        error = ServiceError("UnknownOperationException", f"There is no operation {request.path}.", status=404)
    except web.HTTPRequestEntityTooLarge:
        error = ServiceError("RequestEntityTooLargeException", "The request is too large.", status=413)
    return error_response(error, str(uuid.uuid4()))


def _dialect(call_id: str, call: ModelCall, usage: Usage) -> Dialect:
    if call.operation not in _NATIVE:
        return Converse()
    if dialect_of(call.model_id) == "nova":
        return Nova()
    return Anthropic(call_id, call.model_id, replace(usage, output_tokens=1))


def _billed(input_usage: Usage, answer: Answer) -> Usage:
    override = answer.usage
    return Usage(
        *(
            counted if given is None else given
            for given, counted in (
                (override.input_tokens, input_usage.input_tokens),
                (override.output_tokens, answer.output_tokens),
                (override.cache_read_tokens, input_usage.cache_read_tokens),
                (override.cache_write_tokens, input_usage.cache_write_tokens),
            )
        )
    )


def _invoke_headers(request: web.Request) -> dict[str, Json]:
    """What Converse has in its body and InvokeModel in headers."""
    found: dict[str, Json] = {}
    if tier := request.headers.get("X-Amzn-Bedrock-Service-Tier"):
        found["serviceTier"] = {"type": tier}
    if metadata := request.headers.get("X-Amzn-Bedrock-Request-Metadata"):
        found["requestMetadata"] = dict(_json_object(metadata.encode()))
    return found


def _counted_body(body: Mapping[str, Json], model_id: str) -> Mapping[str, Json]:
    match body.get("input"):
        case {"converse": dict(converse)}:
            return converse
        case {"invokeModel": {"body": str(encoded)}}:
            try:
                return to_converse(_json_object(base64.b64decode(encoded, validate=True)), dialect_of(model_id))
            except binascii.Error:
                raise invalid("Malformed input request: input.invokeModel.body must be base64.") from None
    raise invalid("Malformed input request: input must have converse or invokeModel.")


def _json_object(data: bytes) -> dict[str, Json]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise invalid("Malformed input request: the body is not JSON.") from None
    if not isinstance(value, dict):
        raise invalid("Malformed input request: the body must be an object.")
    return value
