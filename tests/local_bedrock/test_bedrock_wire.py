"""Framing, authorization, model ids, request checks and the native bodies."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from aiohttp import ClientSession
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ConnectionClosedError
from hypothesis import given
from hypothesis import strategies as st

from local_bedrock.backends.script import Fault, Reply, Rule, Script, ToolCall
from local_bedrock.calls import ModelCall
from local_bedrock.eventstream import encode_frame
from local_bedrock.invoice import CallState, billed_tokens, fetch_invoice
from local_bedrock.server import MAX_BODY_BYTES, RunningEndpoint, start
from local_bedrock.settings import LocalBedrockSettings
from local_bedrock.wire import base_model_id
from tests.local_bedrock.runtime_client import runtime_client

CLAUDE = "anthropic.claude-3-5-sonnet-20240620-v1:0"
NOVA = "amazon.nova-lite-v1:0"


@given(
    frames=st.lists(
        st.tuples(
            st.dictionaries(st.text(min_size=1, max_size=40), st.text(max_size=200), max_size=5),
            st.binary(max_size=500),
        ),
        min_size=1,
        max_size=4,
    ),
    cut=st.integers(1, 64),
)
def test_frames_in_any_pieces_are_what_botocore_reads(frames: list[tuple[dict[str, str], bytes]], cut: int) -> None:
    wire = b"".join(encode_frame(headers, payload) for headers, payload in frames)
    buffer = EventStreamBuffer()
    read: list[tuple[Any, bytes]] = []
    for start_byte in range(0, len(wire), cut):
        buffer.add_data(wire[start_byte : start_byte + cut])
        read += [(message.headers, message.payload) for message in buffer]
    assert read == frames


@pytest.mark.parametrize(
    "header", [None, "Bearer token", "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request"]
)
async def test_call_without_a_sigv4_header_for_bedrock_is_refused(
    endpoint: RunningEndpoint, header: str | None
) -> None:
    def post() -> tuple[int, str | None]:
        headers = {"Authorization": header} if header else {}
        request = urllib.request.Request(f"{endpoint.url}/model/{NOVA}/converse", b"{}", headers, method="POST")
        with pytest.raises(urllib.error.HTTPError) as failure:
            urllib.request.urlopen(request, timeout=5)
        with failure.value as error:
            return error.code, error.headers["x-amzn-ErrorType"]

    status, name = await asyncio.to_thread(post)
    assert status == 403
    assert name in {"MissingAuthenticationTokenException", "IncompleteSignatureException"}


@pytest.mark.parametrize(
    "model_id",
    [
        NOVA,
        "us.amazon.nova-pro-v1:0",
        "global.anthropic.claude-sonnet-4-20250514-v1:0",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/eu.anthropic.claude-3-7-sonnet-20250219-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
        "local.smollm2-135m",
    ],
)
async def test_known_model_answers_in_all_its_spellings(endpoint: RunningEndpoint, call: Any, model_id: str) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(text="{model}")),)))
    answer = await call.converse(modelId=model_id)
    assert answer["output"]["message"]["content"] == [{"text": model_id}]


@pytest.mark.parametrize("model_id", ["amazon.titan-text-express-v1", "xx.amazon.nova-lite-v1:0", "gpt-4"])
async def test_unknown_model_is_refused(endpoint: RunningEndpoint, client: Any, call: Any, model_id: str) -> None:
    with pytest.raises(client.exceptions.ValidationException, match="model identifier is invalid"):
        await call.events(modelId=model_id)
    assert endpoint.invoice.records() == []


def test_base_model_id_keeps_an_application_profile_opaque() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
    assert base_model_id(arn) == arn


TOOL = {"toolSpec": {"name": "t", "inputSchema": {"json": {"type": "object"}}}}
USE = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "a", "name": "t", "input": {}}}]}
RESULT = {"role": "user", "content": [{"toolResult": {"toolUseId": "b", "content": [{"text": "x"}]}}]}
USER = {"role": "user", "content": [{"text": "hi"}]}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [USER, USER]}, "alternate"),
        ({"messages": [USE, USER]}, "start with a user message"),
        ({"messages": [USER, {"role": "assistant", "content": [{"text": "pre"}]}]}, "prefill"),
        ({"messages": [{"role": "user", "content": [{"text": " "}]}]}, "blank"),
        ({"messages": [USER, USE, RESULT]}, "toolConfig field must be defined"),
        ({"messages": [USER, USE, RESULT], "toolConfig": {"tools": [TOOL]}}, "following Ids: a"),
        ({"toolConfig": {"tools": [TOOL, TOOL]}}, "unique"),
        ({"toolConfig": {"tools": [TOOL], "toolChoice": {"tool": {"name": "other"}}}}, "not in toolConfig"),
        (
            {"toolConfig": {"tools": [{"toolSpec": {"name": "t", "inputSchema": {"json": {"type": "array"}}}}]}},
            "object",
        ),
        (
            {"messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"x"}}}]}]},
            "image",
        ),
        ({"requestMetadata": {"k": "*"}}, "requestMetadata"),
        (
            {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": "{}"}}}}},
            "tool",
        ),
    ],
)
async def test_broken_request_is_refused(client: Any, call: Any, arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(client.exceptions.ValidationException, match=complaint):
        await call.converse(**arguments)


async def test_invoice_over_http_keeps_metadata_and_tier(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(Script(rules=(Rule(name="r", reply=Reply(text="12345678")),)))
    await call.converse("1234", requestMetadata={"job_id": "j1"}, serviceTier={"type": "flex"})
    await call.events("1234", serviceTier={"type": "flex"})
    records = await asyncio.to_thread(fetch_invoice, endpoint.url)
    assert records == endpoint.invoice.records()
    with await asyncio.to_thread(urllib.request.urlopen, f"{endpoint.url}/_local/calls", timeout=5) as response:
        assert json.load(response) == {"running": 0}
    first = records[0]
    assert (first.metadata, first.state, first.rule) == ({"job_id": "j1"}, CallState.COMPLETED, "r")
    totals = billed_tokens(records)
    assert list(totals) == [(NOVA, "flex")]
    assert (totals[NOVA, "flex"].input_tokens, totals[NOVA, "flex"].output_tokens) == (2, 4)


async def test_count_tokens_counts_claude_and_refuses_nova_and_profiles(client: Any, call: Any) -> None:
    counted = {"converse": {"messages": [USER], "system": [{"text": "12345"}]}}
    assert (await call(client.count_tokens, modelId=CLAUDE, input=counted))["inputTokens"] == 3
    body = json.dumps(
        {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    )
    assert (await call(client.count_tokens, modelId=CLAUDE, input={"invokeModel": {"body": body}}))["inputTokens"] == 1
    for model_id in (NOVA, f"us.{CLAUDE}"):
        with pytest.raises(client.exceptions.ValidationException, match="counting tokens"):
            await call(client.count_tokens, modelId=model_id, input=counted)


def anthropic_body(**extra: Any) -> str:
    tool = {"name": "t", "description": "d", "input_schema": {"type": "object"}}
    messages = [
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "t", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "the result"}]},
    ]
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "tools": [tool], "messages": messages}
    return json.dumps(body | extra)


async def test_anthropic_body_whole_and_streamed(endpoint: RunningEndpoint, client: Any, call: Any) -> None:
    reply = Reply(text="saw {tool_results}", tools=(ToolCall(name="t", input={"q": 1}, id="b"),))
    endpoint.load_script(Script(rules=(Rule(reply=reply),)))
    response = await call(client.invoke_model, modelId=CLAUDE, body=anthropic_body(), serviceTier="priority")
    message = json.loads(response["body"].read())
    assert message["content"] == [
        {"type": "text", "text": "saw the result"},
        {"type": "tool_use", "id": "b", "name": "t", "input": {"q": 1}},
    ]
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("tool_use", 4 + 1 + 2)
    assert response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-bedrock-output-token-count"] == "7"
    assert endpoint.invoice.records()[0].service_tier == "priority"

    def stream() -> list[Any]:
        body = client.invoke_model_with_response_stream(modelId=CLAUDE, body=anthropic_body())["body"]
        return [json.loads(event["chunk"]["bytes"]) for event in body]

    events = await asyncio.to_thread(stream)
    assert [e["type"] for e in events if e["type"] != "content_block_delta"] == [
        "message_start",
        *["content_block_start", "content_block_stop"] * 2,
        "message_delta",
        "message_stop",
    ]
    assert events[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 7
    with pytest.raises(client.exceptions.ValidationException, match="max_tokens"):
        await call(
            client.invoke_model, modelId=CLAUDE, body='{"anthropic_version": "bedrock-2023-05-31", "messages": []}'
        )


async def test_nova_body_whole_and_streamed(endpoint: RunningEndpoint, client: Any, call: Any) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(text="one two three")),)))
    request = {"schemaVersion": "messages-v1", "messages": [USER], "inferenceConfig": {"max_new_tokens": 2}}
    response = await call(client.invoke_model, modelId=NOVA, body=json.dumps(request))
    message = json.loads(response["body"].read())
    assert message["output"]["message"]["content"] == [{"text": "one two "}]
    assert (message["stopReason"], message["usage"]["outputTokens"]) == ("max_tokens", 2)

    def stream() -> list[Any]:
        body = client.invoke_model_with_response_stream(modelId=NOVA, body=json.dumps(request))["body"]
        return [json.loads(event["chunk"]["bytes"]) for event in body]

    events = await asyncio.to_thread(stream)
    assert events[0] == {"messageStart": {"role": "assistant"}}
    assert events[-1]["metadata"]["usage"]["outputTokens"] == 2


async def test_fifty_streams_at_once_are_each_whole(endpoint: RunningEndpoint) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(text="{last_user_text}", chunk_chars=1, chunk_s=0.001)),)))
    client: Any = runtime_client(endpoint.url)

    def read(number: int) -> str:
        messages = [{"role": "user", "content": [{"text": f"stream number {number}"}]}]
        events = client.converse_stream(modelId=NOVA, messages=messages)["stream"]
        return "".join(e["contentBlockDelta"]["delta"]["text"] for e in events if "contentBlockDelta" in e)

    try:
        texts = await asyncio.gather(*(asyncio.to_thread(read, n) for n in range(50)))
    finally:
        client.close()
    assert texts == [f"stream number {n}" for n in range(50)]
    assert endpoint.running_calls == 0


async def test_port_in_use_is_an_error(endpoint: RunningEndpoint) -> None:
    with pytest.raises(OSError, match="in use"):
        await start(LocalBedrockSettings(port=endpoint.port, backend="script"))


async def test_stop_ends_a_stalled_call() -> None:
    asked = asyncio.Event()

    def stall(_: ModelCall) -> Reply:
        asked.set()
        return Reply(text="x", fault=Fault(stall=True))

    async with asyncio.timeout(10):
        running = await start(LocalBedrockSettings(port=0, backend="script"), stall)
        client: Any = runtime_client(running.url)
        waiting = asyncio.create_task(asyncio.to_thread(client.converse, modelId=NOVA, messages=[USER]))
        await asked.wait()
        await running.stop()
        with pytest.raises(ConnectionClosedError):
            await waiting
    client.close()
    assert running.running_calls == 0


@pytest.mark.parametrize(("tool_use_id", "name"), [("u1", "functions.read files"), ("u/1", "search"), ("u1", "x" * 65)])
async def test_a_call_that_bedrock_would_not_take_back_is_refused(
    client: Any, call: Any, tool_use_id: str, name: str
) -> None:
    tools = {"tools": [{"toolSpec": {"name": "search", "inputSchema": {"json": {"type": "object"}}}}]}
    use = {"toolUse": {"toolUseId": tool_use_id, "name": name, "input": {}}}
    result = {"toolResult": {"toolUseId": tool_use_id, "content": [{"text": "r"}]}}
    messages = [USER, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    with pytest.raises(client.exceptions.ValidationException, match="must match"):
        await call(client.converse, modelId=NOVA, messages=messages, toolConfig=tools)


async def test_what_is_no_call_has_the_form_of_a_service_error(endpoint: RunningEndpoint) -> None:
    async with ClientSession() as http:
        async with http.post(f"{endpoint.url}/model/{NOVA}/guess") as unknown:
            assert unknown.status == 404
            assert unknown.headers["x-amzn-ErrorType"] == "UnknownOperationException"
            assert "message" in await unknown.json()
        header = f"AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature={'0' * 64}"
        large = b"x" * (MAX_BODY_BYTES + 1)
        async with http.post(
            f"{endpoint.url}/model/{NOVA}/converse", data=large, headers={"Authorization": header}
        ) as refused:
            assert refused.status == 413
            assert refused.headers["x-amzn-ErrorType"] == "RequestEntityTooLargeException"


async def test_an_error_of_the_model_says_with_what_its_service_had_answered(
    endpoint: RunningEndpoint, client: Any, call: Any
) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(fault=Fault(error="ModelErrorException"))),)))
    with pytest.raises(client.exceptions.ModelErrorException) as failure:
        await call.converse()
    assert failure.value.response["originalStatusCode"] == 424
