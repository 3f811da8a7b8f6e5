"""What a script's rules mean, seen through boto3."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_bedrock.backends.script import Reply, Rule, Script, ScriptError, ToolCall, When, load_script, parse_script
from local_bedrock.calls import ModelCall
from local_bedrock.server import RunningEndpoint

SEARCH = {"toolSpec": {"name": "search", "description": "finds", "inputSchema": {"json": {"type": "object"}}}}


def text_of(events: list[dict[str, Any]]) -> str:
    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    return "".join(delta.get("text", "") for delta in deltas)


def usage_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    usage: dict[str, Any] = events[-1]["metadata"]["usage"]
    return usage


async def test_first_fitting_rule_answers_and_a_used_up_rule_steps_aside(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(
        parse_script(
            """
            rules:
              - {name: nova only, when: {model: "us.amazon.*"}, reply: {text: nova}}
              - {name: once, times: 1, reply: {text: first}}
              - {name: by text, when: {text: "(?i)budget"}, reply: {text: "you said: {last_user_text}"}}
              - {name: by template, when: {template: "coordinator_*"}, reply: {text: "{template} on {model}"}}
            """
        )
    )
    assert text_of(await call.events()) == "first"
    assert text_of(await call.events("the Budget, {please}")) == "you said: the Budget, {please}"
    plan = await call.events(requestMetadata={"template": "coordinator_main", "request_id": "r1"})
    assert text_of(plan) == "coordinator_main on amazon.nova-lite-v1:0"
    assert text_of(await call.events(modelId="us.amazon.nova-lite-v1:0")) == "nova"
    assert [record.rule for record in endpoint.invoice.records()] == ["once", "by text", "by template", "nova only"]


async def test_call_that_no_rule_fits_fails_and_says_why(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(Script(rules=(Rule(when=When(text="never")),)))
    with pytest.raises(
        ClientError, match=r"No rule of the script fits this call: model amazon\.nova-lite-v1:0"
    ) as failure:
        await call.converse("something else")
    assert failure.value.response["Error"]["Code"] == "ModelErrorException"
    assert endpoint.invoice.records()[0].usage.total_tokens == 0


async def test_tools_are_called_at_once_and_their_results_answered(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(
        Script(
            rules=(
                Rule(when=When(has_tool_results=True), reply=Reply(text="found: {tool_results}")),
                Rule(
                    when=When(offers=("search",), tool_choice="any"),
                    reply=Reply(
                        text="looking",
                        tools=(
                            ToolCall(
                                name="search", input={"query": "{last_user_text}", "deep": [1, {"a": "é"}]}, id="t1"
                            ),
                            ToolCall(name="search", input={"query": "second"}, id="t2"),
                        ),
                    ),
                ),
            )
        )
    )
    config: dict[str, Any] = {"tools": [SEARCH], "toolChoice": {"any": {}}}
    plan = await call.converse('say "hi"', toolConfig=config)
    assert plan["stopReason"] == "tool_use"
    text, first, second = plan["output"]["message"]["content"]
    assert text == {"text": "looking"}
    assert first["toolUse"] == {
        "toolUseId": "t1",
        "name": "search",
        "input": {"query": 'say "hi"', "deep": [1, {"a": "é"}]},
    }
    assert second["toolUse"]["input"] == {"query": "second"}

    results = [
        {"toolResult": {"toolUseId": "t1", "content": [{"json": {"path": "a.py"}}]}},
        {"toolResult": {"toolUseId": "t2", "content": [{"text": "nothing"}], "status": "error"}},
    ]
    messages = [
        {"role": "user", "content": [{"text": "hi"}]},
        plan["output"]["message"],
        {"role": "user", "content": results},
    ]
    answer = await call.events(messages=messages, toolConfig={"tools": [SEARCH]})
    assert text_of(answer) == 'found: {"path":"a.py"}\nnothing'


async def test_max_tokens_end_an_endless_answer_exactly(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(text="words and ", endless=True, chunk_chars=7)),)))
    events = await call.events(inferenceConfig={"maxTokens": 25})
    assert text_of(events) == ("words and " * 10)
    assert events[-2] == {"messageStop": {"stopReason": "max_tokens"}}
    assert usage_of(events)["outputTokens"] == 25


async def test_max_tokens_cut_a_tool_call_short(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(
        Script(rules=(Rule(reply=Reply(tools=(ToolCall(name="search", input={"query": "x" * 99}),))),))
    )
    config = {"tools": [SEARCH]}
    reply = await call.converse(toolConfig=config, inferenceConfig={"maxTokens": 6})
    assert reply["stopReason"] == "max_tokens"
    assert reply["usage"]["outputTokens"] == 6


async def test_answer_ends_before_the_earliest_stop_sequence(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(text="one two three END four")),)))
    events = await call.events(inferenceConfig={"stopSequences": ["END", "three"]})
    assert text_of(events) == "one two "
    assert events[-2] == {"messageStop": {"stopReason": "stop_sequence"}}


async def test_tokens_are_a_quarter_of_the_bytes_of_each_text(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(text="ééééé")),)))
    events = await call.events("12345", system=[{"text": "1234"}, {"text": "1"}])
    assert usage_of(events)["inputTokens"] == 2 + 1 + 1
    assert usage_of(events)["outputTokens"] == 3
    assert usage_of(events)["totalTokens"] == 7


async def test_usage_can_be_overridden_and_left_out(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(
        parse_script(
            """
            rules:
              - {times: 1, reply: {text: x, usage: {input_tokens: 7, cache_read_tokens: 5}}}
              - {reply: {text: x, omit_usage: true}}
            """
        )
    )
    usage = usage_of(await call.events())
    assert (usage["inputTokens"], usage["outputTokens"], usage["cacheReadInputTokens"]) == (7, 1, 5)
    assert list((await call.events())[-1]) == ["messageStop"]
    assert endpoint.invoice.records()[1].usage.output_tokens == 1


async def test_cache_point_writes_once_then_reads(endpoint: RunningEndpoint, call: Any) -> None:
    endpoint.load_script(Script(rules=(Rule(reply=Reply(text="ok")),)))
    system = [{"text": "s" * 80}, {"cachePoint": {"type": "default"}}]
    counts = []
    for text in ("12345678", "abcd"):
        usage = usage_of(await call.events(text, system=system))
        counts.append((usage["inputTokens"], usage["cacheReadInputTokens"], usage["cacheWriteInputTokens"]))
    assert counts == [(2, 0, 20), (1, 20, 0)]


async def test_function_can_be_the_script(endpoint: RunningEndpoint, call: Any) -> None:
    def decide(asked: ModelCall) -> Reply | None:
        return Reply(text=asked.last_user_text.upper()) if asked.operation == "converse" else None

    endpoint.load_script(decide)
    assert (await call.converse("loud"))["output"]["message"]["content"] == [{"text": "LOUD"}]
    with pytest.raises(ClientError, match="ModelErrorException"):
        await call.events("loud")


async def test_new_script_comes_in_over_http_and_a_bad_one_names_its_fault(
    endpoint: RunningEndpoint, call: Any
) -> None:
    async def post(script: str) -> tuple[int, str]:
        request = urllib.request.Request(f"{endpoint.url}/_local/script", data=script.encode(), method="POST")

        def send() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(request, timeout=5) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(send)

    assert (await post("rules: [{reply: {text: posted}}]"))[0] == 200
    assert text_of(await call.events()) == "posted"
    status, message = await post("rules: [{reply: {txt: posted}}]")
    assert status == 400
    assert "rules.0.reply.txt" in message


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("rules: [{when: {text: '('}}]", "rules.0.when.text"),
        ("rules: [{reply: {fault: {error: X, stall: true}}}]", "exactly one of"),
        ("rules: [{reply: {fault: {error_frame: X}}}]", "needs after_chunks"),
        ("rules: [", "while parsing"),
    ],
)
def test_bad_script_is_refused_with_its_place(script: str, place: str) -> None:
    with pytest.raises(ScriptError, match=place):
        parse_script(script)


def test_missing_script_file_is_refused() -> None:
    with pytest.raises(ScriptError, match=r"nowhere\.yaml"):
        load_script("nowhere.yaml")
