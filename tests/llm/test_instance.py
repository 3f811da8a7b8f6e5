"""One instance over the scripted endpoint with real boto3: tools, structured output, resumption."""

from __future__ import annotations

import asyncio
import contextlib
import json

from llm.conversation import Conversation, Cut
from llm.instance import ToolOutcome
from llm.runner import LlmRunner
from llm.structured import RESULT_TOOL
from llm.templates import Template
from local_bedrock.backends.script import parse_script
from local_bedrock.server import RunningEndpoint
from svc_common.endings import EndReason
from tests.llm.support import NOVA, ArithmeticMeter, RememberingHost, make_task

TWO_READS_THEN_ANSWER = """
rules:
  - when: {has_tool_results: false, offers: [read_files], template: test_tool}
    reply:
      text: "I will look."
      tools:
        - {name: read_files, input: {paths: [a.py]}, id: use-a}
        - {name: read_files, input: {paths: [b.py]}, id: use-b}
  - when: {has_tool_results: true, tool_result: "content of b.py"}
    reply: {text: "It is in `b.py`.", chunk_chars: 4}
"""


async def test_parallel_tool_calls_come_in_one_round_and_their_results_reach_the_model(
    endpoint: RunningEndpoint, runner: LlmRunner, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(parse_script(TWO_READS_THEN_ANSWER))
    host = RememberingHost(tool=lambda use: ToolOutcome(f"content of {use.input['paths'][0]}"))

    result = await runner.run(make_task(free_text), host)

    assert result.text == host.text == "It is in `b.py`."
    assert (result.is_partial, result.reason, result.rounds, result.model_calls) == (False, EndReason.NONE, 1, 2)
    [(round, thought, uses)] = host.rounds
    assert (round, thought, [use.id for use in uses]) == (1, "I will look.", ["use-a", "use-b"])
    assert host.restarts == 1  # "I will look." was streamed before it was known to be a thought
    assert result.model_ids == (NOVA,)
    assert result.cost == meter.spent > 0
    assert not meter.open
    assert [record.metadata["template"] for record in endpoint.invoice.records()] == ["test_tool"] * 2
    assert endpoint.invoice.records()[0].metadata == {
        "request_id": "request-1",
        "job_id": "job-1",
        "template": "test_tool",
        "role": "fast",
    }


async def test_a_resumed_instance_runs_the_same_tools_again_and_goes_on(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(parse_script(TWO_READS_THEN_ANSWER))

    class Dying(RememberingHost):
        async def run_tools(self, *_: object) -> list[ToolOutcome]:
            raise asyncio.CancelledError

    dying = Dying()
    with contextlib.suppress(asyncio.CancelledError):
        await runner.run(make_task(free_text), dying)
    host = RememberingHost(tool=lambda use: ToolOutcome(f"content of {use.input['paths'][0]}"))
    result = await runner.run(make_task(free_text), host, Conversation.from_json(dying.checkpoints[-1]))

    assert result.text == "It is in `b.py`."
    assert [(round, [use.id for use in uses]) for round, _, uses in host.rounds] == [(1, ["use-a", "use-b"])]
    assert result.model_calls == 2  # the first one was the dead run's


async def test_calls_that_cannot_be_run_are_answered_so_that_the_model_can_mend_them(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - times: 1
    reply:
      tools:
        - {name: read_files, input: {path: a.py}}
        - {name: delete_files, input: {}}
        - {name: submit_result, input: {}}
        - {name: read_files, input_text: '{"paths": ["a'}
        - {name: read_files, input: {paths: [good.py]}}
  - times: 1
    when: {tool_result: "'paths' is a required property"}
    reply: {tools: [{name: read_files, input: {paths: [good.py]}}]}
  - when: {tool_result: "this very call before"}
    reply: {text: done}
""")
    )
    host = RememberingHost()

    result = await runner.run(make_task(free_text), host)

    assert result.text == "done"
    assert [[use.input for use in uses] for _, _, uses in host.rounds] == [[{"paths": ["good.py"]}]]
    answers = [
        block["toolResult"]["content"][0]["text"]
        for block in Conversation.from_json(host.checkpoints[1]).messages[2]["content"]
    ]
    assert "There are: read_files" in answers[1]
    assert "There are: read_files" in answers[2]
    assert "no JSON object" in answers[3]
    assert answers[4] == '<data name="tool_result" source="read_files">\nresult of read_files\n</data>'


async def test_invented_names_and_repeated_ids_of_calls_do_not_end_the_instance(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - times: 1
    reply:
      tools:
        - {name: functions.read files, input: {}, id: u1}
        - {name: read_files, input: {paths: [a.py]}, id: u1}
  - reply: {text: fine}
""")
    )
    host = RememberingHost()

    result = await runner.run(make_task(free_text), host)

    assert (result.text, result.is_partial) == ("fine", False)
    assert [[use.name for use in uses] for _, _, uses in host.rounds] == [["read_files"]]


async def test_a_conclusion_that_calls_tools_runs_none_after_a_resumption_either(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{reply: {text: at last}}]"))
    talk = Conversation([{"role": "user", "content": [{"text": "Well?"}]}])
    talk.conclusion = Cut(EndReason.NONE, "all rounds of tool calls are used up")
    talk.add_assistant([{"toolUse": {"toolUseId": "u1", "name": "read_files", "input": {"paths": ["a.py"]}}}])
    host = RememberingHost()

    result = await runner.run(make_task(free_text), host, Conversation.from_json(talk.to_json()))

    assert (result.text, host.rounds) == ("at last", [])


async def test_a_model_that_only_repeats_itself_is_made_to_conclude(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {offers: [read_files]}
    reply: {tools: [{name: read_files, input: {paths: [a.py]}}]}
  - when: {text: "conclude"}
    reply: {text: "what I have"}
""")
    )
    host = RememberingHost()

    result = await runner.run(make_task(free_text, max_rounds=10), host)

    assert (result.text, result.is_partial, result.rounds) == ("what I have", False, 1)
    assert result.model_calls == 4  # one that ran, two in vain, the conclusion


async def test_structured_output_is_repaired_once_and_streamed(
    endpoint: RunningEndpoint, runner: LlmRunner, structured: Template
) -> None:
    endpoint.load_script(
        parse_script(f"""
rules:
  - times: 1
    when: {{tool_choice: any}}
    reply: {{tools: [{{name: {RESULT_TOOL}, input: {{score: 7}}}}]}}
  - when: {{tool_result: "'summary' is a required property"}}
    reply: {{tools: [{{name: {RESULT_TOOL}, input: {{summary: fine, score: 0.5}}}}]}}
""")
    )
    host = RememberingHost()

    result = await runner.run(make_task(structured), host)

    assert result.output == {"summary": "fine", "score": 0.5}
    assert (result.is_partial, result.model_calls) == (False, 2)
    assert json.loads(host.text) == result.output
    assert host.restarts == 1


async def test_output_that_stays_invalid_is_kept_as_partial_with_the_raw_text(
    endpoint: RunningEndpoint, runner: LlmRunner, structured: Template
) -> None:
    endpoint.load_script(parse_script(f"rules: [{{reply: {{tools: [{{name: {RESULT_TOOL}, input: {{score: 7}}}}]}}}}]"))

    result = await runner.run(make_task(structured), RememberingHost())

    assert (result.is_partial, result.reason, result.output) == (True, EndReason.LLM_ERROR, None)
    assert json.loads(result.text) == {"score": 7}
    assert "summary" in result.message
