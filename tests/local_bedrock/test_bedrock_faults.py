"""Every failure as botocore sees it, before the stream and in it, and what the invoice says of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EventStreamError, ResponseStreamingError
from botocore.exceptions import ConnectionClosedError as BotoConnectionClosed
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from local_bedrock.backends.script import Fault, Reply, Rule, Script
from local_bedrock.errors import STATUS_OF_ERROR
from local_bedrock.invoice import CallState
from local_bedrock.server import RunningEndpoint
from tests.local_bedrock.runtime_client import runtime_client

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

TEXT = "twelve chars" * 4
IN_STREAM = (
    "internalServerException",
    "modelStreamErrorException",
    "serviceUnavailableException",
    "throttlingException",
    "validationException",
)


def script(**fault: Any) -> Script:
    return Script(rules=(Rule(reply=Reply(text=TEXT, chunk_chars=12, fault=Fault(**fault))),))


@pytest.mark.parametrize(
    "name", sorted(set(STATUS_OF_ERROR) - {"ModelStreamErrorException", "ServiceQuotaExceededException"})
)
async def test_modelled_error_before_the_stream(endpoint: RunningEndpoint, client: Any, call: Any, name: str) -> None:
    endpoint.load_script(script(error=name, message="as told"))
    with pytest.raises(getattr(client.exceptions, name), match="as told") as failure:
        await call.events()
    metadata = failure.value.response["ResponseMetadata"]
    assert metadata["HTTPStatusCode"] == STATUS_OF_ERROR[name]
    (record,) = endpoint.invoice.records()
    assert record.state is CallState.REFUSED
    assert record.usage.total_tokens == 0
    assert record.call_id == metadata["RequestId"]


@pytest.mark.parametrize("name", IN_STREAM)
@pytest.mark.parametrize("after", [0, 2])
async def test_modelled_error_in_the_stream_is_billed_in_full(
    endpoint: RunningEndpoint, client: BedrockRuntimeClient, name: str, after: int
) -> None:
    endpoint.load_script(script(error=name[0].upper() + name[1:], after_chunks=after))
    seen: list[Any] = []

    def read() -> None:
        messages: Any = [{"role": "user", "content": [{"text": "hello"}]}]
        seen.extend(client.converse_stream(modelId="amazon.nova-lite-v1:0", messages=messages)["stream"])

    with pytest.raises(EventStreamError) as failure:
        # `extend` keeps what came before the error
        await asyncio.to_thread(read)
    assert failure.value.response["Error"]["Code"] == name
    assert len([event for event in seen if "contentBlockDelta" in event]) == after
    (record,) = endpoint.invoice.records()
    assert (record.state, record.usage.output_tokens) == (CallState.FAILED, 12)


async def test_unmodelled_error_frame(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(script(error_frame="InternalFailure", message="odd", after_chunks=1))
    with pytest.raises(EventStreamError, match="odd") as failure:
        await call.events()
    assert failure.value.response["Error"]["Code"] == "InternalFailure"


async def test_plain_5xx_and_retry_hint(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(script(error="BadGateway", status=502, retry_after="3"))
    with pytest.raises(ClientError) as failure:
        await call.converse()
    metadata = failure.value.response["ResponseMetadata"]
    assert (metadata["HTTPStatusCode"], metadata["HTTPHeaders"]["retry-after"]) == (502, "3")


async def test_throttled_twice_then_answered(endpoint: RunningEndpoint, client: Any, call: Any) -> None:
    endpoint.load_script(script(error="ThrottlingException", times=2))
    for _ in range(2):
        with pytest.raises(client.exceptions.ThrottlingException):
            await call.events()
    assert "metadata" in (await call.events())[-1]
    assert [record.usage.output_tokens for record in endpoint.invoice.records()] == [0, 0, 12]


@pytest.mark.parametrize("at", [0, 1, 100, 500, 10_000])
async def test_connection_dropped_at_a_byte(endpoint: RunningEndpoint, call: Any, at: int) -> None:
    endpoint.load_script(script(drop_at_byte=at))
    with pytest.raises(ProtocolError):
        await call.events()
    (record,) = endpoint.invoice.records()
    assert (record.state, record.usage.output_tokens) == (CallState.FAILED, 12)


async def test_connection_dropped_before_any_response(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(script(drop=True))
    with pytest.raises(BotoConnectionClosed):
        await call.events()
    with pytest.raises(BotoConnectionClosed):
        await call.converse()
    assert [record.usage.output_tokens for record in endpoint.invoice.records()] == [12, 12]


async def test_truncated_whole_response_reads_as_one_without_answer_and_usage(
    endpoint: RunningEndpoint, call: Any
) -> None:
    endpoint.load_script(script(drop_at_byte=20))
    reply = await call.converse()  # botocore does not notice, so a caller has to
    assert "usage" not in reply
    assert endpoint.invoice.records()[0].state is CallState.FAILED


async def test_native_body_can_break_off_too(endpoint: RunningEndpoint, client: Any, call: Any) -> None:
    endpoint.load_script(script(drop_at_byte=20))
    body = json.dumps({"messages": [_user()]})
    response = await call(client.invoke_model, modelId="amazon.nova-lite-v1:0", body=body)
    with pytest.raises(ResponseStreamingError):
        await call(response["body"].read)


async def test_stall_lasts_until_the_client_gives_up_and_is_billed_in_full(endpoint: RunningEndpoint) -> None:
    endpoint.load_script(script(stall=True, after_chunks=1))
    impatient = runtime_client(endpoint.url, read_timeout=0.3)

    def read() -> None:
        try:
            list(impatient.converse_stream(modelId="amazon.nova-lite-v1:0", messages=[_user()])["stream"])
        finally:
            impatient.close()

    with pytest.raises(ReadTimeoutError):
        await asyncio.to_thread(read)
    await endpoint.wait_idle(timeout=5)
    (record,) = endpoint.invoice.records()
    assert (record.state, record.usage.output_tokens) == (CallState.DISCONNECTED, 12)


async def test_client_that_leaves_midway_ends_the_call_and_owes_the_whole_answer(
    endpoint: RunningEndpoint, client: BedrockRuntimeClient
) -> None:
    endless = Reply(text="on and on ", endless=True, chunk_s=0.01)
    endpoint.load_script(Script(rules=(Rule(reply=endless),)))

    def read_one_and_leave() -> None:
        response = client.converse_stream(
            modelId="amazon.nova-lite-v1:0", messages=[_user()], inferenceConfig={"maxTokens": 2000}
        )
        next(iter(response["stream"]))
        assert endpoint.running_calls == 1
        response["stream"].close()

    await asyncio.to_thread(read_one_and_leave)
    await endpoint.wait_idle(timeout=5)
    (record,) = endpoint.invoice.records()
    assert (record.state, record.usage.output_tokens) == (CallState.DISCONNECTED, 2000)


async def test_malformed_tool_json_travels_in_a_stream_and_fails_a_whole_response(
    endpoint: RunningEndpoint, client: Any, call: Any
) -> None:
    endpoint.load_script(
        Script.model_validate({"rules": [{"reply": {"tools": [{"name": "search", "input_text": '{"query": "x'}]}}]})
    )
    config = {"tools": [{"toolSpec": {"name": "search", "inputSchema": {"json": {"type": "object"}}}}]}
    events = await call.events(toolConfig=config)
    deltas = [e["contentBlockDelta"]["delta"]["toolUse"]["input"] for e in events if "contentBlockDelta" in e]
    assert "".join(deltas) == '{"query": "x'
    with pytest.raises(client.exceptions.ModelErrorException, match="invalid sequence"):
        await call.converse(toolConfig=config)


def _user() -> Any:
    return {"role": "user", "content": [{"text": "hello"}]}
