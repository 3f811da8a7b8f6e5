"""Letting go of a call, as boto3 has it on the way to AWS: over TLS, at any stage, without harm to other calls."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.chaos.lag import LagProbe
from llm.bedrock import BedrockClient, EventStream
from llm.bedrock_errors import Kind, ModelCallError
from llm.reply import Reply
from llm.runner import LlmRunner
from llm.templates import Template
from local_bedrock.backends.script import parse_script
from local_bedrock.eventstream import encode_event
from local_bedrock.invoice import CallState
from local_bedrock.server import RunningEndpoint
from svc_common.times import now
from tests.llm.support import NOVA, ArithmeticMeter, RememberingHost, make_task, session, settings, until

REQUEST: dict[str, Any] = {"modelId": NOVA, "messages": [{"role": "user", "content": [{"text": "hello"}]}]}
SLOW = "rules: [{reply: {text: 'word ', endless: true, chunk_s: 0.01, first_token_s: FIRST}}]"


@pytest.fixture
async def client(endpoint: RunningEndpoint) -> AsyncIterator[BedrockClient]:
    made = BedrockClient(settings(concurrent_calls=2), session())
    yield made
    await made.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of 127.0.0.1, with its key, in one file."""
    path = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", str(path)]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True)
    return path


@asynccontextmanager
async def tls_in_front_of(port: int, certificate: Path) -> AsyncIterator[int]:
    """A TLS server that hands bytes on to a port of this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, f"{certificate}.key")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def read_to_the_end(stream: EventStream) -> None:
    while await stream.next(10):
        pass


async def test_this_botocore_lets_calls_be_aborted(client: BedrockClient) -> None:
    assert client.can_abort


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
@pytest.mark.parametrize("first_token", [0, 60], ids=["in the stream", "before the first byte"])
async def test_a_call_over_tls_is_let_go_of(
    endpoint: RunningEndpoint, certificate: Path, monkeypatch: pytest.MonkeyPatch, first_token: int
) -> None:
    endpoint.load_script(parse_script(SLOW.replace("FIRST", str(first_token))))
    async with tls_in_front_of(endpoint.port, certificate) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"https://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        client = BedrockClient(settings(), session())
        async with client.converse(REQUEST, streaming=True) as stream:
            if not first_token:
                await stream.next(10)
            await until(lambda: bool(endpoint.running_calls))
            stream.abort()
            with pytest.raises(ModelCallError, match="broke"):
                await read_to_the_end(stream)
        await until(lambda: not endpoint.running_calls)
        await client.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
async def test_a_tls_error_after_the_request_was_sent_may_have_cost_something(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # Past the TLS layer, straight onto the connection.
        os.write(writer.get_extra_info("socket").fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)
        writer.transport.abort()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, f"{certificate}.key")
    async with await asyncio.start_server(no_tls, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"https://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        client = BedrockClient(settings(), session())
        async with client.converse(REQUEST, streaming=True) as stream:
            with pytest.raises(ModelCallError) as lost:
                await stream.next(10)
        await client.close()

    assert (lost.value.kind, lost.value.begun) == (Kind.LOST, True)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
async def test_a_tls_error_before_the_request_cost_nothing(
    endpoint: RunningEndpoint, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_in_front_of(endpoint.port, certificate) as port:
        monkeypatch.setenv(
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"https://127.0.0.1:{port}"
        )  # whose certificate nobody knows
        client = BedrockClient(settings(), session())
        async with client.converse(REQUEST, streaming=True) as stream:
            with pytest.raises(ModelCallError) as refused:
                await stream.next(10)
        await client.close()

    assert (refused.value.kind, refused.value.begun) == (Kind.UNREACHABLE, False)


async def test_a_response_on_a_connection_that_is_not_kept_is_let_go_of_too(monkeypatch: pytest.MonkeyPatch) -> None:
    was_closed = asyncio.Event()

    async def say_one_thing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        frame = encode_event("messageStart", {"role": "assistant"})
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n")
        writer.write(b"Content-Type: application/vnd.amazon.eventstream\r\n\r\n%x\r\n%b\r\n" % (len(frame), frame))
        if not await reader.read():
            was_closed.set()
        writer.close()

    async with await asyncio.start_server(say_one_thing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", f"http://127.0.0.1:{port}")
        client = BedrockClient(settings(), session())
        async with client.converse(REQUEST, streaming=True) as stream:
            await stream.next(10)
            stream.abort()
            async with asyncio.timeout(10):  # long before the read timeout
                await was_closed.wait()
                with pytest.raises(ModelCallError, match="broke"):
                    await read_to_the_end(stream)
        await client.close()


async def test_fifty_running_streams_are_let_go_of_at_once(
    endpoint: RunningEndpoint, make_runner: Callable[..., LlmRunner], meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(parse_script(SLOW.replace("FIRST", "0")))
    runner = make_runner(meter, llm_settings=settings(concurrent_calls=50, concurrent_calls_per_model=50))
    hosts = [RememberingHost() for _ in range(50)]
    running = [asyncio.create_task(runner.run(make_task(free_text), host)) for host in hosts]
    await asyncio.gather(*(host.heard.wait() for host in hosts))

    with LagProbe() as lag:
        cancelled = now()
        for instance in running:
            instance.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await endpoint.wait_idle(timeout=10)

    records = endpoint.invoice.records()
    closed = max(record.end_time for record in records)
    assert [record.state for record in records] == [CallState.DISCONNECTED] * 50
    assert closed - cancelled - lag.within(cancelled, closed) < 100_000


async def test_a_call_given_up_while_it_waits_for_a_thread_is_never_sent(
    endpoint: RunningEndpoint, client: BedrockClient
) -> None:
    endpoint.load_script(parse_script(SLOW.replace("FIRST", "60")))

    async def call() -> None:
        async with client.converse(REQUEST, streaming=True) as stream:
            await stream.next(60)

    calls = [asyncio.create_task(call()) for _ in range(3)]  # one more than there are threads
    await until(lambda: endpoint.running_calls == 2)
    calls[2].cancel()
    await asyncio.gather(calls[2], return_exceptions=True)
    for running in calls[:2]:
        running.cancel()
    await until(lambda: not endpoint.running_calls)

    assert len(endpoint.invoice.records()) == 2


async def test_aborting_a_finished_call_does_not_touch_the_next_one_on_its_connection(
    endpoint: RunningEndpoint, client: BedrockClient
) -> None:
    endpoint.load_script(parse_script("rules: [{reply: {text: hello}}]"))

    async with client.converse(REQUEST, streaming=True) as first:
        await read_to_the_end(first)
    async with client.converse(REQUEST, streaming=True) as second:
        await second.next(10)
        first.abort()
        await read_to_the_end(second)


async def test_a_model_that_does_not_stream_is_heard_in_the_same_way(
    endpoint: RunningEndpoint, client: BedrockClient
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {operation: converse}
    reply: {text: hello, tools: [{name: read_files, input: {paths: [a.py]}, id: use-1}]}
""")
    )
    tools = [{"toolSpec": {"name": "read_files", "inputSchema": {"json": {"type": "object"}}}}]
    reply = Reply()
    async with client.converse({**REQUEST, "toolConfig": {"tools": tools}}, streaming=False) as stream:
        while events := await stream.next(10):
            for event in events:
                reply.feed(event)

    assert reply.blocks() == [
        {"text": "hello"},
        {"toolUse": {"toolUseId": "use-1", "name": "read_files", "input": {"paths": ["a.py"]}}},
    ]
    assert reply.is_complete


async def test_where_calls_cannot_be_aborted_they_count_as_sent(
    endpoint: RunningEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.bedrock._hook_connections", lambda *_: False)
    endpoint.load_script(parse_script("rules: [{reply: {fault: {drop: true}}}]"))
    client = BedrockClient(settings(), session())

    async with client.converse(REQUEST, streaming=True) as stream:
        with pytest.raises(ModelCallError) as lost:
            await stream.next(10)
    await client.close()

    assert lost.value.begun
    assert stream.is_sent
