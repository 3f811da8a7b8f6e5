"""The bundled model behind the real endpoint, loaded once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from botocore.exceptions import ReadTimeoutError

from local_bedrock.backends.llama import LlamaBackend
from local_bedrock.backends.smollm import find_weights
from local_bedrock.calls import ModelCall
from local_bedrock.invoice import CallState
from local_bedrock.server import RunningEndpoint, start
from local_bedrock.settings import LocalBedrockSettings
from local_bedrock.wire import parse_converse
from tests.local_bedrock.runtime_client import runtime_client
from tests.local_bedrock.test_bedrock_choices import HEADERS, PLANNING, RESPOND, RESPONSE

MODEL = "local.smollm2-135m"
SYSTEM = [{"text": f'Answer from the data.\n<data name="headers" source="workspace">\n{HEADERS}\n</data>'}]
QUESTION: dict[str, Any] = {
    "role": "user",
    "content": [{"text": "How are payments retried, and what counts the shelves?"}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llama() -> AsyncIterator[RunningEndpoint]:
    async with await start(LocalBedrockSettings(port=0, backend="llama")) as running:
        yield running


@pytest.fixture
def runtime(llama: RunningEndpoint) -> Any:
    return runtime_client(llama.url, read_timeout=60)


@pytest.mark.asyncio(loop_scope="module")
async def test_it_plans_fills_a_schema_and_answers_naming_files(llama: RunningEndpoint, runtime: Any) -> None:
    ask: dict[str, Any] = {"modelId": "amazon.nova-lite-v1:0", "system": SYSTEM, "messages": [QUESTION]}
    plan = await asyncio.to_thread(runtime.converse, **ask, toolConfig={"tools": PLANNING})
    uses = [block["toolUse"] for block in plan["output"]["message"]["content"]]
    assert plan["stopReason"] == "tool_use"
    assert {use["name"] for use in uses} <= {tool["toolSpec"]["name"] for tool in PLANNING}
    assert all(use["input"]["query"] == QUESTION["content"][0]["text"] for use in uses)

    forced = {"tools": [RESPOND], "toolChoice": {"tool": {"name": "respond"}}}
    filled = await asyncio.to_thread(runtime.converse, **ask, toolConfig=forced)
    output = filled["output"]["message"]["content"][0]["toolUse"]["input"]
    jsonschema.validate(output, RESPONSE)

    results = [{"toolResult": {"toolUseId": use["toolUseId"], "content": [{"json": output}]}} for use in uses]
    ask["messages"] = [QUESTION, plan["output"]["message"], {"role": "user", "content": results}]

    def stream() -> list[Any]:
        return list(runtime.converse_stream(**ask, toolConfig={"tools": PLANNING})["stream"])

    events = await asyncio.to_thread(stream)
    deltas = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert len(deltas) > 1
    assert "shop/orders.py" in "".join(deltas)
    usage = events[-1]["metadata"]["usage"]
    record = llama.invoice.records()[-1]
    assert (record.usage.input_tokens, record.usage.output_tokens) == (usage["inputTokens"], usage["outputTokens"])


@pytest.mark.asyncio(loop_scope="module")
async def test_tokens_are_the_models_own_and_limits_hold(runtime: Any) -> None:
    counted = {"converse": {"messages": [{"role": "user", "content": [{"text": "Hello world, é <|im_start|>"}]}]}}
    answer = await asyncio.to_thread(runtime.count_tokens, modelId=MODEL, input=counted)
    assert answer["inputTokens"] == 6
    ask: dict[str, Any] = {"modelId": MODEL, "system": SYSTEM, "messages": [QUESTION]}
    short = await asyncio.to_thread(runtime.converse, **ask, inferenceConfig={"maxTokens": 5})
    assert (short["stopReason"], short["usage"]["outputTokens"]) == ("max_tokens", 5)
    stopped = await asyncio.to_thread(runtime.converse, **ask, inferenceConfig={"stopSequences": [".py"]})
    text = stopped["output"]["message"]["content"][0]["text"]
    assert stopped["stopReason"] == "stop_sequence"
    assert ".py" not in text


@pytest.mark.asyncio(loop_scope="module")
async def test_client_that_leaves_is_billed_the_most_it_may_have_come_to(llama: RunningEndpoint) -> None:
    impatient = runtime_client(llama.url, read_timeout=0.05)
    alike = "\n".join(f"Payments are retried by part {n} of the shop, each in its own way." for n in range(20))
    ask: dict[str, Any] = {
        "modelId": MODEL,
        "system": [{"text": f'<data name="entries">\n{alike}\n</data>'}],
        "messages": [QUESTION],
        "requestMetadata": {"who": "left"},
    }
    with pytest.raises(ReadTimeoutError):
        await asyncio.to_thread(impatient.converse, **ask, inferenceConfig={"maxTokens": 77})
    await llama.wait_idle(timeout=10)
    record = next(record for record in llama.invoice.records() if record.metadata.get("who") == "left")
    assert (record.state, record.usage.output_tokens) == (CallState.DISCONNECTED, 77)


@pytest.mark.asyncio(loop_scope="module")
async def test_callers_are_served_in_turn_and_one_who_leaves_frees_its_place() -> None:
    backend = await LlamaBackend.load(prompt_tokens=100)
    served: list[str] = []

    async def ask(name: str) -> None:
        await backend.answer(call_named(name))
        served.append(name)

    try:
        first, second, third, fourth = (asyncio.create_task(ask(name)) for name in ("1", "2", "3", "4"))
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.gather(first, second, third, fourth, return_exceptions=True)
    finally:
        await backend.close()
    assert served == ["1", "2", "4"]
    assert third.cancelled()


def call_named(name: str) -> ModelCall:
    body: Any = {"system": SYSTEM, "messages": [{"role": "user", "content": [{"text": f"Question {name}?"}]}]}
    return parse_converse(body, operation="converse", model_id=MODEL, default_max_tokens=50)


def test_weights_are_found_without_importing_their_package() -> None:
    assert find_weights().name.endswith(".gguf")
