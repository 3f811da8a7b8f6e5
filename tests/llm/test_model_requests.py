"""What is sent to which model: by its abilities, within its window, and how it is counted."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llm.catalogue import Model
from llm.conversation import Message
from llm.fence import fence
from llm.instance import ToolOutcome, ToolUse
from llm.reply import Reply
from llm.requests import Question, build
from llm.tokens import block_bytes, input_bound, request_bytes
from llm.tool_calls import result_block
from llm.trimming import fit
from tests.llm.support import READ_FILES

READ = ToolUse("use-1", "read_files", {"paths": ["a.py"]})
TALK: list[Message] = [
    {"role": "user", "content": [{"text": fence("material", "m" * 3000)}, {"text": fence("query", "why?")}]},
    {"role": "assistant", "content": [{"toolUse": {"toolUseId": "use-1", "name": "read_files", "input": READ.input}}]},
    {"role": "user", "content": [result_block(READ, ToolOutcome("r" * 3000))]},
]


def model(**abilities: Any) -> Model:
    can = {"context_window": 100_000, "max_output": 1000, "tool_choice": {"auto", "any", "tool"}, **abilities}
    return Model(id="m", **can)


def arguments(known: Model, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "system": "You help.",
        "messages": TALK,
        "tools": (READ_FILES,),
        "must_call": None,
        "schema_text": "",
        "max_output_tokens": 5000,
        "is_last": False,
        "metadata": {"job_id": "job-1", "role": "fast «and» free"},
    }
    return build(Question(**{**asked, **changes}), known, max_input_tokens=None, max_output_tokens=None).arguments


def texts(messages: list[Message]) -> str:
    return " ".join(str(block) for message in messages for block in message["content"])


def test_a_model_with_all_abilities_gets_tools_system_and_blocks_as_they_are() -> None:
    sent = arguments(model(), must_call="read_files")

    assert sent["system"] == [{"text": "You help."}]
    assert sent["messages"] == TALK
    assert set(sent["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]) == {"type", "properties", "required"}
    assert sent["toolConfig"]["toolChoice"] == {"tool": {"name": "read_files"}}
    assert sent["inferenceConfig"] == {"maxTokens": 1000, "temperature": 0.0}
    assert sent["requestMetadata"] == {"job_id": "job-1", "role": "fast -and- free"}


def test_a_model_without_tools_reads_results_as_text_and_the_schema_in_the_system_text() -> None:
    sent = arguments(model(tools=False), schema_text="Answer by this schema.")

    assert "toolConfig" not in sent
    assert "toolUse" not in texts(sent["messages"])
    assert "toolResult" not in texts(sent["messages"])
    assert 'name="tool_result"' in texts(sent["messages"][2:])
    assert sent["system"][0]["text"].endswith("Answer by this schema.")


def test_a_model_without_system_text_gets_it_in_front_of_the_first_message() -> None:
    sent = arguments(model(system=False))

    assert "system" not in sent
    assert sent["messages"][0]["content"][0] == {"text": "You help."}


def test_a_model_that_refuses_a_temperature_is_sent_none() -> None:
    assert arguments(model(temperature=False))["inferenceConfig"] == {"maxTokens": 1000}


def test_ids_and_frames_of_many_small_calls_are_within_the_bound() -> None:
    uses = [ToolUse(f"tooluse_{number:022}", "t", {}) for number in range(16)]
    calls = [{"toolUse": {"toolUseId": use.id, "name": use.name, "input": use.input}} for use in uses]
    results = [result_block(use, ToolOutcome("ok")) for use in uses]
    messages = [{"role": "assistant", "content": calls}, {"role": "user", "content": results}]

    assert input_bound("", messages, (), 10**6) > sum(len(str(block)) for block in calls) * 0.9


def test_stable_prefixes_are_marked_for_the_cache_where_they_are_long_enough() -> None:
    caching = model(caching={"system", "messages"})
    point = {"cachePoint": {"type": "default"}}

    assert point not in arguments(caching)["system"]
    sent = arguments(caching, system="Long. " * 1000)
    assert sent["system"][-1] == point
    assert [message["content"][-1] == point for message in sent["messages"]] == [True, False, True]
    assert "cachePoint" not in texts(arguments(caching, system="Long. " * 1000, is_last=True)["messages"])
    assert "cachePoint" not in str(arguments(model(), system="Long. " * 1000))


def test_what_does_not_fit_is_cut_by_rank_with_a_mark() -> None:
    later = [
        *TALK,
        {"role": "assistant", "content": [{"text": "ok"}]},
        {"role": "user", "content": deepcopy(TALK[2]["content"])},
    ]

    fitted, cut = fit(later, 7000)

    old_result, material, new_result = fitted[2], fitted[0], fitted[4]
    assert cut > 0
    assert "left out" in texts([old_result])
    assert "left out" not in texts([material, new_result])
    tight, _ = fit(later, 1500)
    assert "left out" in texts([tight[0]])
    assert "left out" in texts([tight[4]])
    assert tight[0]["content"][1] == {"text": fence("query", "why?")}
    assert "left out" not in texts(later)  # the conversation itself stays whole


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=6), st.integers(1500, 20_000))
def test_a_conversation_can_always_be_made_to_fit(sizes: list[int], room: int) -> None:
    blocks = [{"text": fence(f"part{number}", "x" * size)} for number, size in enumerate(sizes)]

    fitted, _ = fit([{"role": "user", "content": blocks}], room)

    assert sum(block_bytes(block) for block in fitted[0]["content"]) <= room


@given(st.text(max_size=200), st.text(max_size=200))
def test_the_input_bound_is_never_under_the_bytes_and_never_over_the_window(system: str, text: str) -> None:
    messages = [{"role": "user", "content": [{"text": text}]}]

    bound = input_bound(system, messages, (), 10_000)

    assert request_bytes(system, messages, ()) <= bound <= 10_000
    assert input_bound(system, messages, (), 10) == 10


@given(st.lists(st.integers(1, 6), max_size=30))
def test_thoughts_in_a_tag_are_taken_out_of_text_however_it_is_split(cuts: list[int]) -> None:
    text = "<thinking>let me see <b>\n</thinking>\n\nThe <answer>."
    reply = Reply("thinking")
    shown, rest = "", text
    for size in [*cuts, len(text)]:
        piece, rest = rest[:size], rest[size:]
        if piece:
            shown += reply.feed({"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": piece}}})

    assert shown == "The <answer>."
    assert reply.blocks() == [{"text": "The <answer>."}]
