"""What the bundled model is offered and what becomes of its choices, with a chooser in place of the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_bedrock.backends.answer import NOTHING_GIVEN
from local_bedrock.backends.choosing import ChooserFor
from local_bedrock.backends.cut_json import parse_json
from local_bedrock.backends.decide import decide
from local_bedrock.backends.extract import extract
from local_bedrock.backends.facts import Fact, FactReader
from local_bedrock.backends.paths import paths_in
from local_bedrock.backends.prose import passages
from local_bedrock.backends.ranking import best_first
from local_bedrock.backends.source_text import said_in_source
from local_bedrock.backends.words import scores
from local_bedrock.calls import ModelCall, Text, ToolUse
from local_bedrock.wire import parse_converse

HEADERS = """
shop/orders.py
intent: Takes orders and retries failed payments three times,
with a pause between that doubles each time it is used again.
defines: Order, take, retry

shop/stock.py
intent: Counts what is on the shelves, every night.
"""
RESPONSE = {
    "type": "object",
    "required": ["relevant_files", "summary", "confidence"],
    "properties": {
        "relevant_files": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["path", "intent", "relevance_score"],
                "properties": {
                    "path": {"type": "string"},
                    "intent": {"type": "string"},
                    "relevance_score": {"type": "number", "minimum": 0, "maximum": 1},
                    "relevance_reason": {"type": "string"},
                },
            },
        },
        "insights": {"type": "array", "items": {"$ref": "#/$defs/insight"}},
        "improvements": {"type": "array", "items": {"type": "string"}},
        "confidence": {"enum": ["low", "high"]},
        "lines": {"type": ["integer", "null"]},
        "summary": {"anyOf": [{"type": "string", "maxLength": 40}, {"type": "null"}]},
    },
    "$defs": {
        "insight": {
            "type": "object",
            "required": ["insight", "supporting_files"],
            "properties": {
                "supporting_files": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                "insight": {"type": "string"},
            },
        }
    },
}


def tool(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"toolSpec": {"name": name, "description": description, "inputSchema": {"json": schema}}}


def query_tool(name: str, description: str) -> dict[str, Any]:
    properties = {"query": {"type": "string"}, "directories": {"type": "array", "items": {"type": "string"}}}
    return tool(name, description, {"type": "object", "properties": properties, "required": ["query"]})


RESPOND = tool("respond", "takes the answer", RESPONSE)
READ_FILES = tool(
    "read_files", "Reads files.", {"type": "object", "properties": {"paths": {"type": "array", "items": {}}}}
)
PLANNING = [
    query_tool("get_codebase_context", "Finds the source files that bear on a query."),
    query_tool("get_codebase_changelog_context", "Finds what changed in the code, and when."),
    query_tool("get_documentation_context", "Finds the documents that bear on a query."),
    query_tool("get_expert_architect_advice", "Advises on architecture."),
    tool("write_message", "Writes about a query.", {"type": "object", "properties": {"query": {"type": "string"}}}),
    READ_FILES,
]


def call_of(
    question: str = "How are payments retried?", data: str = HEADERS, tools: list[Any] | None = None, **more: Any
) -> ModelCall:
    system = [{"text": f'Answer from the data.\n<data name="headers" source="workspace">\n{data}\n</data>'}]
    user = {"role": "user", "content": [{"text": f'<data name="query" source="client">\n{question}\n</data>'}]}
    body: dict[str, Any] = {"system": system, "messages": [user], **more}
    if tools:
        body.setdefault("toolConfig", {})["tools"] = tools
    return parse_converse(body, operation="converse", model_id="m", default_max_tokens=2000)


def choosing(pick: int, seen: list[Sequence[str]] | None = None) -> ChooserFor:
    """A chooser that takes the candidate at `pick` (or the last)."""

    def choose(_: str, candidates: Sequence[str]) -> str:
        if seen is not None:
            seen.append(list(candidates))
        return candidates[min(pick, len(candidates) - 1)]

    return lambda _: choose


def facts_in(text: str) -> list[Fact]:
    return FactReader([text]).facts([(text, "")])


def count(text: str) -> int:
    return len(text) // 4


def decided(call: ModelCall, pick: int = 0) -> list[Text | ToolUse]:
    return decide(call, extract(call), choosing(pick), count)


def filled(call: ModelCall, pick: int = 0) -> Any:
    (block,) = decided(call, pick)
    assert isinstance(block, ToolUse)
    return json.loads(block.input_text)


def test_facts_know_their_file_and_wrapped_lines_are_one_sentence() -> None:
    material = extract(call_of())
    assert material.question == "How are payments retried?"
    assert material.facts == (
        Fact(
            "Takes orders and retries failed payments three times, with a pause between that doubles each time it is "
            "used again.",
            "shop/orders.py",
        ),
        Fact("Counts what is on the shelves, every night.", "shop/stock.py"),
    )


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("see `a/b.py`, ./c.md and (d/e/f.proto).", ["a/b.py", "c.md", "d/e/f.proto"]),
        ("Makefile of deploy/Dockerfile", ["Makefile", "deploy/Dockerfile"]),
        ("and/or boto3.client v1.2 http://host/x.py e.g. 3/4", []),
    ],
)
def test_paths_are_told_from_other_words(text: str, paths: list[str]) -> None:
    assert list(paths_in(text)) == paths


def test_facts_of_json_belong_to_the_file_their_object_names() -> None:
    text = '{"files": [{"path": "a.py", "intent": "Keeps the books of the house.", "relevance_reason": "Mentions it all."}]}'
    assert facts_in(text) == [Fact("Keeps the books of the house.", "a.py")]


def test_dated_entries_belong_to_the_files_they_list() -> None:
    entry = "docs/LOG.md\n2026-01-02T03:04:05Z : [GUIDE.md, other.md] Explain how the retry works"
    assert facts_in(entry) == [Fact("Explain how the retry works", "GUIDE.md", date="2026-01-02")]


@given(st.text(max_size=400))
def test_any_text_can_be_read(text: str) -> None:
    material = extract(call_of(question=text or "?", data=text or "-"))
    assert all(fact.text for fact in material.facts)
    assert scores(text, [text, "other"])[1:] == scores(text, ["other", text])[:1]


@pytest.mark.parametrize(
    "piece",
    [
        "<data ",
        "<data>",
        "a/",
        "- ",
        "\n",
        "x.py, ",
        "[",
        '{"a":',
        "2026-01-01 ",
        "a_",
        ",",
        "`",
        "*a",
        ". A",
        '"""',
        "# ",
    ],
)
def test_hostile_text_is_read_as_fast_as_any(piece: str) -> None:
    data = piece * 20_000
    extract(call_of(question=data + "?", data=data))  # quadratic time would run into the timeout
    list(said_in_source(data))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "# Retries of the shop\n\n    retry = payments.retry()\n\nEach payment is\nretried.",
            ["Each payment is retried."],
        ),
        (
            "| a | table of the payments |\n|---|---|\n\n* A payment that fails is retried.",
            ["A payment that fails is retried."],
        ),
        ("Each payment is retried. This takes a minute.", ["Each payment is retried. This takes a minute."]),
        ("This takes a minute.\n\n.. code:: python\n\n   Payments are in here", []),
        ("Use :class:`~shop.Retry` or [the guide](docs/x.md) to retry.", ["Use `~shop.Retry` or the guide to retry."]),
    ],
)
def test_prose_is_told_from_code_tables_and_sentences_that_point_elsewhere(text: str, found: list[str]) -> None:
    assert [passage.text for passage in passages(text)] == found


def test_docstrings_and_comments_know_where_they_stand() -> None:
    source = '''
class Shop:
    """Sells all that there is.

    This includes what is sold out.
    """

    def retry(self):
        """Tries a payment again."""
        return self.pay()  # not a sentence
'''
    said = [(passage.heading, passage.text) for passage in said_in_source(source)]
    assert said == [
        ("Shop", "Sells all that there is. This includes what is sold out."),
        ("Shop.retry", "Tries a payment again."),
    ]


RESULT = {"files": [{"path": "a.py", "content": 'It says "no" to\nall.'}, {"path": "b.py", "size": 3}], "missing": []}


@given(st.integers(1, len(json.dumps(RESULT))))
def test_json_that_was_cut_is_read_as_far_as_it_goes(end: int) -> None:
    parsed = parse_json(json.dumps(RESULT)[:end] + "\n[... 12 bytes left out: no room in the context ...]")
    assert isinstance(parsed, dict)
    files = parsed.get("files", [])
    assert isinstance(files, list)
    for file, whole in zip(files, RESULT["files"], strict=False):
        assert isinstance(file, dict)
        assert isinstance(whole, dict)
        assert all(str(whole[key]).startswith(str(value)) for key, value in file.items() if key in whole)


def test_ranking_prefers_shared_rare_words_whatever_their_ending() -> None:
    texts = ["The house has a door and a house.", "Retrying a payment in the house.", "Nothing of the kind."]
    assert best_first(scores("How are payments retried in the house?", texts))[0] == 1


def test_plan_asks_tools_with_the_question_and_leaves_special_ones_for_special_questions() -> None:
    plan = decided(call_of(tools=PLANNING))
    assert {use.name for use in plan if isinstance(use, ToolUse)} == {
        "get_codebase_context",
        "get_documentation_context",
    }
    assert all(isinstance(use, ToolUse) and use.input_text == '{"query":"How are payments retried?"}' for use in plan)
    history = decided(call_of("When did the retry change?", tools=PLANNING))
    assert "get_codebase_changelog_context" in {use.name for use in history if isinstance(use, ToolUse)}
    advice = decided(call_of("Should we retry payments in another service?", tools=PLANNING))
    assert "get_expert_architect_advice" in {use.name for use in advice if isinstance(use, ToolUse)}


def test_plan_reads_the_file_that_the_question_names() -> None:
    plan = decided(call_of("What does shop/stock.py do?", tools=PLANNING))
    read = [use for use in plan if isinstance(use, ToolUse) and use.name == "read_files"]
    assert [use.input_text for use in read] == ['{"paths":["shop/stock.py"]}']


@pytest.mark.parametrize("pick", [0, 1, 2])
@pytest.mark.parametrize("max_tokens", [2000, 90])
def test_forced_tool_gets_json_valid_by_its_schema_whose_strings_stand_in_the_data(pick: int, max_tokens: int) -> None:
    forced = {"toolChoice": {"tool": {"name": "respond"}}}
    call = call_of(tools=[RESPOND], toolConfig=forced, inferenceConfig={"maxTokens": max_tokens})
    value = filled(call, pick)
    jsonschema.validate(value, RESPONSE)
    assert {item["path"] for item in value["relevant_files"]} <= {"shop/orders.py", "shop/stock.py"}
    assert all(item["intent"].rstrip("…") in " ".join(HEADERS.split()) for item in value["relevant_files"])
    assert value["improvements"] == []
    assert all(path.startswith("shop/") for item in value["insights"] for path in item["supporting_files"])
    assert count(str(value)) <= max_tokens + 10


def test_data_without_anything_still_makes_valid_json() -> None:
    forced = {"toolChoice": {"tool": {"name": "respond"}}}
    jsonschema.validate(filled(call_of(data="-", tools=[RESPOND], toolConfig=forced)), RESPONSE)


def test_files_of_which_only_the_head_is_given_are_read_before_the_result_is_given() -> None:
    (first,) = decided(call_of(tools=[READ_FILES, RESPOND]))
    assert isinstance(first, ToolUse)
    assert (first.name, first.input_text) == ("read_files", '{"paths":["shop/orders.py"]}')
    asked = {"toolUse": {"toolUseId": "a", "name": "read_files", "input": {"paths": ["shop/orders.py"]}}}
    text = '"""Takes orders."""\n\ndef retry():\n    """Retries a failed payment after a pause of a minute."""\n'
    read = json.dumps({"files": [{"path": "shop/orders.py", "content": text}], "missing": []})
    result = {"toolResult": {"toolUseId": "a", "content": [{"text": f'<data name="tool_result">\n{read}\n</data>'}]}}
    messages = [{"role": "user", "content": [{"text": call_of().last_user_text}]}]
    messages += [{"role": "assistant", "content": [asked]}, {"role": "user", "content": [result]}]
    value = filled(call_of(tools=[READ_FILES, RESPOND], messages=messages))
    assert {
        "insight": "Retries a failed payment after a pause of a minute.",
        "supporting_files": ["shop/orders.py"],
    } in value["insights"]


def test_tool_that_takes_the_answer_waits_for_the_tools_that_ask() -> None:
    plan = decided(call_of(tools=[*PLANNING, RESPOND]))
    assert {use.name for use in plan if isinstance(use, ToolUse)} == {
        "get_codebase_context",
        "get_documentation_context",
    }


@pytest.mark.parametrize("tools", [[RESPOND], [READ_FILES], PLANNING])
@pytest.mark.parametrize("data", [HEADERS, "-"])
def test_call_that_must_use_a_tool_does(tools: list[Any], data: str) -> None:
    blocks = decided(call_of(data=data, tools=tools, toolConfig={"toolChoice": {"any": {}}}))
    assert all(isinstance(block, ToolUse) for block in blocks)


def test_remarks_of_whoever_put_the_data_together_are_no_facts() -> None:
    remarks = [
        "intent: (the file does not say)",
        "defines: start, stop, load, main and more",
        "[cut: the rest did not fit]",
    ]
    data = "\n".join(["a/b.py", *remarks])
    assert facts_in(data) == []


def test_answer_is_sentences_of_the_results_with_their_files() -> None:
    asked = {"toolUse": {"toolUseId": "a", "name": "get_codebase_context", "input": {"query": "q"}}}
    files = '{"relevant_files":[{"path":"shop/retry.py","intent":"Retries payments with a pause."}]}'
    found = f'<data name="result" source="tool">\n{files}\n</data>'
    call = call_of(
        tools=PLANNING,
        messages=[
            {"role": "user", "content": [{"text": '<data name="query">How are payments retried?</data>'}]},
            {"role": "assistant", "content": [asked]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "a", "content": [{"text": found}]}}]},
        ],
    )
    (answer,) = decided(call)
    assert isinstance(answer, Text)
    assert answer.text == "Retries payments with a pause (`shop/retry.py`)."  # and nothing of the prompt's own material


def test_only_candidates_near_the_best_are_offered() -> None:
    seen: list[Sequence[str]] = []
    call = call_of()
    decide(call, extract(call), choosing(0, seen), count)
    assert all(len(candidates) <= 3 for candidates in seen)
    assert seen[0] == [extract(call).facts[0].text]


def test_without_data_it_says_so() -> None:
    assert decided(call_of(data="-")) == [Text(NOTHING_GIVEN)]
