"""An instance at the limit of its time or money ends in time with what it has, and says what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from llm.instance import ToolOutcome, ToolUse
from llm.runner import LlmRunner
from llm.structured import RESULT_TOOL
from llm.templates import Template
from local_bedrock.backends.script import Reply, ToolCall, parse_script
from local_bedrock.calls import ModelCall
from local_bedrock.invoice import CallState
from local_bedrock.server import RunningEndpoint
from svc_common import deadline
from svc_common.endings import EndReason
from svc_common.times import now
from svc_common.tokens import TokenUsage
from tests.llm.support import PRICES, ArithmeticMeter, RememberingHost, make_task, settings, until

Make = Callable[..., LlmRunner]


async def ended(endpoint: RunningEndpoint) -> None:
    """Waits until the endpoint has seen every connection close."""
    await until(lambda: not endpoint.running_calls)


async def test_a_model_that_says_nothing_is_given_up_in_time_and_charged_in_full(
    endpoint: RunningEndpoint, runner: LlmRunner, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{reply: {text: late, first_token_s: 60}}]"))
    task = make_task(free_text, seconds=0.8)

    result = await runner.run(task, RememberingHost())

    assert now() < task.deadline
    assert (result.is_partial, result.reason, result.text) == (True, EndReason.TIMEOUT, "")
    assert "more time" in result.missing[0]
    await ended(endpoint)
    assert result.model_calls == 2  # the second one was to conclude
    assert [record.state for record in endpoint.invoice.records()] == [CallState.DISCONNECTED] * 2
    assert [hold.cost == hold.held for hold in meter.holds.values()] == [True, True]
    assert result.cost == meter.spent


async def test_an_answer_that_is_being_written_goes_on_to_the_last_moment_and_is_kept(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("rules: [{reply: {text: 'word ', endless: true, chunk_chars: 5, chunk_s: 0.02}}]")
    )
    task = make_task(free_text, seconds=0.8)
    host = RememberingHost()

    result = await runner.run(task, host)

    assert now() < task.deadline
    assert (result.is_partial, result.reason, result.model_calls) == (True, EndReason.TIMEOUT, 1)
    assert result.text == host.text
    assert result.text.startswith("word word")
    await ended(endpoint)


async def test_a_slow_plan_is_given_up_for_a_quick_conclusion(
    endpoint: RunningEndpoint, runner: LlmRunner, meter: ArithmeticMeter, structured: Template
) -> None:
    endpoint.load_script(
        parse_script(f"""
rules:
  - when: {{text: "time is over|nearly over|had answered"}}
    reply: {{tools: [{{name: {RESULT_TOOL}, input: {{summary: short}}}}]}}
  - reply: {{text: late, first_token_s: 60}}
""")
    )
    task = make_task(structured, seconds=1.5)

    result = await runner.run(task, RememberingHost())

    assert now() < task.deadline
    assert (result.output, result.is_partial, result.reason) == ({"summary": "short"}, True, EndReason.TIMEOUT)
    assert [hold.reservation.is_conclusion for hold in meter.holds.values()] == [False, True]


async def test_a_tool_call_that_is_written_slowly_does_not_take_the_time_for_the_conclusion(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    def decide(call: ModelCall) -> Reply:
        if call.offered_tools:
            many = ToolCall(name="read_files", input={"paths": ["a" * 5] * 400})
            return Reply(text="I will look.", tools=(many,), chunk_s=0.02, chunk_chars=8)
        return Reply(text="what I know")

    endpoint.load_script(decide)
    host = RememberingHost()

    result = await runner.run(make_task(free_text, seconds=2.5), host)

    assert (result.text, result.reason, result.model_calls) == ("what I know", EndReason.TIMEOUT, 2)
    assert host.text == result.text


async def test_more_tool_calls_than_a_turn_may_make_are_refused(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {has_tool_results: false}
    reply: {tools: [{name: read_files, input: {paths: [a.py]}}, {name: read_files, input: {paths: [b.py]}}]}
  - when: {tool_result: "At most 1|1 call"}
    reply: {text: done}
""")
    )
    host = RememberingHost()

    result = await make_runner(meter, llm_settings=settings(tool_calls_per_turn=1)).run(make_task(free_text), host)

    assert (result.text, result.is_partial) == ("done", False)
    assert [[use.input for use in uses] for _, _, uses in host.rounds] == [[{"paths": ["a.py"]}]]


async def test_tools_that_take_too_long_are_left_and_the_instance_concludes(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {text: "conclude"}
    reply: {text: "without the file"}
  - reply: {tools: [{name: read_files, input: {paths: [a.py]}}]}
""")
    )

    class SlowHost(RememberingHost):
        was_cancelled = False

        async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise
            return []

    host = SlowHost()
    task = make_task(free_text, seconds=1.2)

    result = await runner.run(task, host)

    assert now() < task.deadline
    assert host.was_cancelled
    assert (result.text, result.is_partial, result.reason) == ("without the file", True, EndReason.TIMEOUT)


async def test_what_tools_bring_at_the_last_moment_is_concluded_from_at_once(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {text: "conclude"}
    reply: {text: "I saw {last_user_text}"}
  - reply: {tools: [{name: read_files, input: {paths: [a.py]}}]}
""")
    )

    class LateHost(RememberingHost):
        async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
            await asyncio.sleep((deadline.remaining() or 0.0) - 0.2)
            return [ToolOutcome("the file after all")]

    result = await runner.run(make_task(free_text, seconds=2.0), LateHost())

    assert "the file after all" in result.text
    assert result.reason is EndReason.TIMEOUT
    assert result.model_calls == 2


async def test_without_money_for_another_call_the_held_back_part_pays_for_the_conclusion(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {text: "conclude"}
    reply: {text: "what I know"}
  - reply: {tools: [{name: read_files, input: {paths: [a.py]}}], usage: {output_tokens: 1000}}
""")
    )
    reserve = 2_000 * PRICES.input + 300 * PRICES.output
    meter = ArithmeticMeter(1_700 * PRICES.input + 1_000 * PRICES.output + reserve, conclusion_reserve=reserve)

    result = await make_runner(meter).run(make_task(free_text), RememberingHost())

    assert (result.text, result.is_partial, result.reason) == ("what I know", True, EndReason.BUDGET_EXCEEDED)
    assert "higher limit" in result.missing[0]
    assert [hold.reservation.is_conclusion for hold in meter.holds.values()] == [False, True]
    assert meter.spent <= meter.limit


async def test_with_little_money_a_call_is_made_smaller_before_it_is_given_up(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{reply: {text: 'fits'}}]"))
    meter = ArithmeticMeter(limit=2_500 * PRICES.input + 300 * PRICES.output)

    result = await make_runner(meter).run(make_task(free_text), RememberingHost())

    assert (result.text, result.is_partial) == ("fits", False)
    [hold] = meter.holds.values()
    assert 256 <= hold.reservation.max_output_tokens < 1000


async def test_a_conclusion_reads_less_when_there_is_money_for_less(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{when: {text: 'bytes left out'}, reply: {text: 'short'}}]"))
    meter = ArithmeticMeter(limit=4_000 * PRICES.input + 256 * PRICES.output)
    task = make_task(free_text, values={"query": "what is it?", "material": "fact. " * 5000})

    result = await make_runner(meter).run(task, RememberingHost())

    assert (result.text, result.is_partial, result.reason) == ("short", True, EndReason.BUDGET_EXCEEDED)
    assert meter.spent <= meter.limit


async def test_without_any_money_the_result_says_so(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template
) -> None:
    result = await make_runner(ArithmeticMeter(limit=1)).run(make_task(free_text), RememberingHost())

    assert (result.text, result.is_partial, result.reason) == ("", True, EndReason.BUDGET_EXCEEDED)
    assert endpoint.invoice.records() == []


async def test_rounds_are_limited_and_the_last_turn_answers(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    counter = iter(range(100))

    def decide(call: ModelCall) -> Reply:
        if call.offered_tools:
            return Reply(tools=(ToolCall(name="read_files", input={"paths": [f"{next(counter)}.py"]}),))
        return Reply(text=f"after {len(call.all_tool_results)} results")

    endpoint.load_script(decide)
    host = RememberingHost()

    result = await runner.run(make_task(free_text, max_rounds=3), host)

    assert [round for round, _, _ in host.rounds] == [1, 2, 3]
    assert (result.rounds, result.is_partial, result.text) == (3, False, "after 0 results")  # shown as text by then


async def test_an_answer_at_the_output_limit_is_cut_with_a_mark(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{reply: {text: 'on and on ', endless: true}}]"))

    result = await runner.run(make_task(free_text, max_output_tokens=50), RememberingHost())

    assert result.is_truncated
    assert result.is_partial
    assert result.text.startswith("on and on")
    assert result.text.endswith("[... cut: the output limit was reached ...]")


@pytest.mark.parametrize("first_token", [60, 0], ids=["before the first byte", "in the stream"])
async def test_a_cancelled_instance_closes_its_connection_and_its_charge_is_settled_in_full(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template, first_token: int
) -> None:
    endpoint.load_script(
        parse_script(
            f"rules: [{{reply: {{text: 'word ', endless: true, chunk_s: 0.02, first_token_s: {first_token}}}}}]"
        )
    )
    runner = make_runner(meter)
    host = RememberingHost()
    running = asyncio.create_task(runner.run(make_task(free_text), host))
    await until(lambda: bool(endpoint.running_calls))
    if not first_token:
        await host.heard.wait()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await ended(endpoint)
    await runner.close()

    [hold] = meter.holds.values()
    assert hold.cost == hold.held
    assert endpoint.invoice.records()[0].state is CallState.DISCONNECTED


async def test_no_more_calls_run_to_one_model_than_allowed(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    running: list[int] = []

    def decide(_: ModelCall) -> Reply:
        running.append(endpoint.running_calls)
        return Reply(text="hello", first_token_s=0.02)

    endpoint.load_script(decide)
    runner = make_runner(meter, llm_settings=settings(concurrent_calls_per_model=2))

    results = await asyncio.gather(*(runner.run(make_task(free_text), RememberingHost()) for _ in range(8)))

    assert [result.text for result in results] == ["hello"] * 8
    assert max(running) <= 3  # two, and one that is just ending


async def test_an_answer_is_not_lost_waiting_for_its_settlement(
    endpoint: RunningEndpoint, make_runner: Make, structured: Template
) -> None:
    endpoint.load_script(
        parse_script(f"rules: [{{reply: {{tools: [{{name: {RESULT_TOOL}, input: {{summary: fine}}}}]}}}}]")
    )

    class SlowMeter(ArithmeticMeter):
        answers = asyncio.Event()

        async def settle(self, charge_id: str, usage: TokenUsage | None) -> int:
            await self.answers.wait()
            return await super().settle(charge_id, usage)

    meter = SlowMeter()
    task = make_task(structured, seconds=1.0)

    result = await make_runner(meter).run(task, RememberingHost())

    assert now() < task.deadline
    assert (result.output, result.is_partial) == ({"summary": "fine"}, False)
    assert result.cost == meter.open[0].held
    meter.answers.set()


async def test_usage_that_never_comes_is_charged_in_full(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{reply: {text: answer, omit_usage: true}}]"))

    result = await make_runner(meter, llm_settings=settings(usage_seconds=0.1)).run(
        make_task(free_text), RememberingHost()
    )

    assert (result.text, result.is_partial) == ("answer", False)
    [hold] = meter.holds.values()
    assert hold.cost == hold.held == result.cost
