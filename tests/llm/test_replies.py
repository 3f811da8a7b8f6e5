"""A reply put together from events, of which a model may have written anything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm.bedrock_errors import Kind, ModelCallError
from llm.conversation import Conversation
from llm.reply import MALFORMED, Reply
from llm.structured import RESULT_TOOL, find_result
from llm.tool_calls import with_sound_calls


def delta(**content: Any) -> dict[str, Any]:
    return {"contentBlockDelta": {"contentBlockIndex": 0, "delta": content}}


def calling(name: str, *pieces: str, tool_use_id: str = "use-1") -> list[dict[str, Any]]:
    start = {"contentBlockStart": {"start": {"toolUse": {"toolUseId": tool_use_id, "name": name}}}}
    return [start, *(delta(toolUse={"input": piece}) for piece in pieces)]


def heard(*events: dict[str, Any]) -> Reply:
    reply = Reply(spoken_tool=RESULT_TOOL)
    for event in events:
        reply.feed(event)
    return reply


@pytest.mark.parametrize(
    "event",
    [
        {"contentBlockDelta": {"contentBlockIndex": 0}},
        {"contentBlockDelta": []},
        delta(text=None),
        delta(toolUse={}),
        {"contentBlockStart": {}},
        {"contentBlockStart": {"start": {"toolUse": {"name": "read_files"}}}},
        {"messageStop": {}},
        {"metadata": {"metrics": {}}},
        {"metadata": {"usage": {"inputTokens": 1}}},
        {"metadata": {"usage": {"inputTokens": -1, "outputTokens": 0}}},
    ],
    ids=json.dumps,
)
def test_an_event_that_lacks_something_breaks_the_stream(event: dict[str, Any]) -> None:
    with pytest.raises(ModelCallError) as broken:
        heard(event)
    assert (broken.value.kind, broken.value.begun) == (Kind.STREAM_BROKEN, True)


@pytest.mark.parametrize(
    "written",
    [
        '{"a": "\\ud83d"}',
        '{"a": ' + "[" * 3000,
        '{"a": ' + "[" * 90 + "]" * 90 + "}",
        '{"a": NaN}',
        '{"a": 1e999}',
        "[]",
    ],
    ids=["half a character", "endless depth", "great depth", "not a number", "infinite", "no object"],
)
def test_arguments_that_cannot_be_sent_on_are_malformed(written: str) -> None:
    reply = heard(*calling("read_files", written), {"contentBlockStop": {}})
    [block] = reply.blocks()
    assert block["toolUse"]["input"] == {MALFORMED: written}

    result = find_result([{"text": written}], {"type": "object"})
    assert result is not None
    assert (result.output, result.raw) == (None, written)


def test_half_a_character_is_replaced_so_that_the_text_can_be_kept() -> None:
    talk = Conversation()
    talk.add_assistant(heard(delta(text="a \ud83d b \U0001f600")).blocks())
    assert Conversation.from_json(talk.to_json()).messages[0]["content"] == [{"text": "a \ufffd b \U0001f600"}]


def test_only_the_result_that_was_being_written_is_kept_of_a_call_that_broke_off() -> None:
    assert heard(*calling(RESULT_TOOL, '{"summary": ')).partial_tool_text == '{"summary": '
    assert heard(*calling("read_files", '{"paths": ')).partial_tool_text == ""


def test_what_is_for_the_reader_is_told_from_calls_of_tools() -> None:
    assert not heard().is_answering
    assert heard(delta(text="so")).is_answering
    assert not heard(delta(text="I look."), {"contentBlockStop": {}}, *calling("read_files", "{")).is_answering
    assert heard(*calling(RESULT_TOOL, "{")).is_answering


def test_calls_go_back_to_a_model_with_names_that_can_be_sent_and_ids_of_their_own() -> None:
    def use(tool_use_id: str, name: str) -> dict[str, Any]:
        return {"toolUse": {"toolUseId": tool_use_id, "name": name, "input": {}}}

    before = [{"role": "assistant", "content": [use("call_2", "read_files")]}]
    turn = [{"text": "Look."}, use("a", "functions.read files"), use("a", "read_files"), use("", "x" * 65)]

    sound = with_sound_calls(turn, before)

    assert sound[0] == {"text": "Look."}
    assert [block["toolUse"]["name"] for block in sound[1:]] == ["no_such_tool", "read_files", "no_such_tool"]
    ids = [block["toolUse"]["toolUseId"] for block in sound[1:]]
    assert ids[0] == "a"
    assert len({"call_2", "", *ids}) == 5
