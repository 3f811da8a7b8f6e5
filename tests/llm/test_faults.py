"""Every way a model call can fail, before its response and within it, met by a retry, by another model, or by nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm.bedrock import Event, EventStream
from llm.instance import InstanceResult
from llm.runner import LlmRunner
from llm.structured import RESULT_TOOL
from llm.templates import Template
from local_bedrock.backends.script import parse_script
from local_bedrock.invoice import billed_tokens
from local_bedrock.server import RunningEndpoint
from svc_common.endings import EndReason
from tests.llm.support import HAIKU, NOVA, PRICES, ArithmeticMeter, RememberingHost, catalogue, make_task, settings

Make = Callable[..., LlmRunner]

RETRIED = "retried at the same model, then passed on"
PASSED_ON = "passed on to the next model at once"
FINAL = "not tried again"

BEFORE = {
    "error: ThrottlingException": RETRIED,
    "error: ModelNotReadyException": RETRIED,
    "error: InternalServerException": RETRIED,
    "error: ServiceUnavailableException": RETRIED,
    "error: BadGateway, status: 502": RETRIED,
    "error: ModelStreamErrorException": RETRIED,
    "drop: true": RETRIED,
    "stall: true": RETRIED,
    "error: ModelErrorException": PASSED_ON,
    "error: ModelTimeoutException": PASSED_ON,
    "error: ServiceQuotaExceededException": PASSED_ON,
    "error: ResourceNotFoundException, message: This model version has reached the end of its life": PASSED_ON,
    "error: AccessDeniedException": PASSED_ON,
    "error: ValidationException, message: The provided model identifier is invalid": PASSED_ON,
    "error: ValidationException, message: '`temperature` is deprecated for this model.'": PASSED_ON,
    "error: ValidationException, message: Malformed request": FINAL,
}
IN_STREAM = {
    "error: ThrottlingException": RETRIED,
    "error: InternalServerException": RETRIED,
    "error: ServiceUnavailableException": RETRIED,
    "error: ModelStreamErrorException": RETRIED,
    "error_frame: SomethingNew": RETRIED,
    "event: {contentBlockDelta: {contentBlockIndex: 0}}": RETRIED,
    "drop: true": RETRIED,
    "stall: true": RETRIED,
    "error: ModelTimeoutException": RETRIED,  # not an exception of this stream: boto3 hands it on without its name
    "error: ValidationException, message: Malformed request": FINAL,
}
# Whoever says this is not Bedrock, and does not know whether the model ran.
UNKNOWN_BEFORE = {"error: BadGateway, status: 502"}
UNBILLED_BEFORE = {fault for fault in BEFORE if fault.startswith("error")} - UNKNOWN_BEFORE


class Bench:
    """Runs one instance against a script in which NOVA, and perhaps HAIKU, fail."""

    def __init__(self, endpoint: RunningEndpoint, make: Make, used: Template) -> None:
        self.endpoint = endpoint
        self._make = make
        self._template = used
        self.meter = ArithmeticMeter()
        self.host = RememberingHost()

    async def run(self, *, nova: str, haiku: str = "") -> InstanceResult:
        """`nova` and `haiku` are faults in the script's words; none: the model answers."""
        rules = [
            f"{{when: {{model: '{model}'}}, reply: {{text: 'from {model}', chunk_chars: 4{fault and f', fault: {{{fault}}}'}}}}}"
            for model, fault in ((NOVA, nova), (HAIKU, haiku))
        ]
        self.endpoint.load_script(parse_script(f"rules: [{', '.join(rules)}]"))
        self.meter = ArithmeticMeter()
        self.host = RememberingHost()
        patience = 0.35 if "stall" in nova else 20.0
        limits = settings(first_event_seconds=patience, stall_seconds=patience, attempts_per_model=2)
        runner = self._make(self.meter, catalogue(NOVA, HAIKU), limits)
        result = await runner.run(make_task(self._template, tools=()), self.host)
        await runner.close()
        return result

    def asked(self) -> list[str]:
        return [record.model_id for record in self.endpoint.invoice.records()]

    def check_money(self, result: InstanceResult) -> None:
        """Every attempt has a settled charge of its own, which covers what the endpoint bills."""
        assert len(self.meter.holds) == len(self.asked()) == result.model_calls
        assert not self.meter.open
        billed = billed_tokens(self.endpoint.invoice.records()).values()
        invoice = sum(u.input_tokens * PRICES.input + u.output_tokens * PRICES.output for u in billed)
        assert invoice <= self.meter.spent == result.cost


@pytest.fixture
def bench(endpoint: RunningEndpoint, make_runner: Make, free_text: Template) -> Bench:
    return Bench(endpoint, make_runner, free_text)


FAULTS = [(fault, "", meaning) for fault, meaning in BEFORE.items()] + [
    (fault, ", after_chunks: 0", meaning) for fault, meaning in IN_STREAM.items()
]


@pytest.mark.parametrize(("fault", "place", "meaning"), FAULTS, ids=[f"{fault}{place}" for fault, place, _ in FAULTS])
async def test_a_fault_is_survived_as_far_as_it_can_be(bench: Bench, fault: str, place: str, meaning: str) -> None:
    tries = 2 if meaning is RETRIED else 1

    once = await bench.run(nova=f"{fault}{place}, times: 1")
    bench.check_money(once)
    match meaning:
        case "retried at the same model, then passed on":
            assert (once.text, once.is_partial, bench.asked()) == (f"from {NOVA}", False, [NOVA, NOVA])
        case "passed on to the next model at once":
            assert (once.text, once.is_partial, bench.asked()) == (f"from {HAIKU}", False, [NOVA, HAIKU])
        case _:
            assert (once.text, once.reason, bench.asked()) == ("", EndReason.LLM_ERROR, [NOVA])

    always = await bench.run(nova=f"{fault}{place}")
    bench.check_money(always)
    if meaning is not FINAL:
        assert (always.text, always.is_partial, always.model_ids) == (f"from {HAIKU}", False, (HAIKU,))
        assert bench.asked() == [NOVA] * tries + [HAIKU]
        assert HAIKU in bench.host.warnings[0]
        assert bench.host.text == always.text

    everywhere = await bench.run(nova=f"{fault}{place}", haiku=f"{fault}{place}")
    bench.check_money(everywhere)
    assert (everywhere.text, everywhere.is_partial, everywhere.reason) == ("", True, EndReason.LLM_ERROR)
    assert everywhere.message
    assert everywhere.missing
    if meaning is not FINAL:
        assert bench.asked() == [NOVA] * tries + [HAIKU] * tries
    if not place and fault in UNBILLED_BEFORE:
        assert everywhere.cost == 0
    if place or fault in UNKNOWN_BEFORE:
        assert all(hold.cost == hold.held for hold in bench.meter.holds.values())


@pytest.mark.parametrize("fault", [*IN_STREAM, "drop_at_byte: 700"])
async def test_what_was_said_before_a_stream_broke_is_taken_back_for_a_better_try_and_else_kept(
    bench: Bench, fault: str
) -> None:
    place = "" if "byte" in fault else ", after_chunks: 2"

    once = await bench.run(nova=f"{fault}{place}, times: 1")

    bench.check_money(once)
    if IN_STREAM.get(fault) is not FINAL:
        assert (once.text, once.is_partial, bench.asked()) == (f"from {NOVA}", False, [NOVA, NOVA])
        assert (bench.host.text, bench.host.restarts) == (once.text, 1)

    everywhere = await bench.run(nova=f"{fault}{place}", haiku=f"{fault}{place}")

    bench.check_money(everywhere)
    assert everywhere.text == bench.host.text
    assert everywhere.text
    assert f"from {NOVA}".startswith(everywhere.text) or f"from {HAIKU}".startswith(everywhere.text)
    assert (everywhere.is_partial, everywhere.reason) == (True, EndReason.LLM_ERROR)


async def test_what_comes_together_with_a_malformed_event_is_heard(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_comes = EventStream.next

    async def all_at_once(stream: EventStream, patience: float) -> list[Event]:
        events: list[Event] = []
        while more := await as_it_comes(stream, patience):
            events += more
        return events

    monkeypatch.setattr(EventStream, "next", all_at_once)
    fault = "event: {contentBlockDelta: {contentBlockIndex: 0}}, after_chunks: 2"

    result = await bench.run(nova=fault, haiku=fault)

    assert result.text == bench.host.text == f"from {NOVA}"[:8]


async def test_a_model_that_is_gone_is_not_asked_again_for_a_while(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script(f"""
rules:
  - when: {{model: '{NOVA}'}}
    reply: {{fault: {{error: ResourceNotFoundException}}}}
  - reply: {{text: hello}}
""")
    )
    runner = make_runner(meter, catalogue(NOVA, HAIKU))

    for _ in range(2):
        assert (await runner.run(make_task(free_text), RememberingHost())).text == "hello"

    assert [record.model_id for record in endpoint.invoice.records()] == [NOVA, HAIKU, HAIKU]


async def test_a_throttled_model_is_left_alone_for_some_seconds(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script(f"""
rules:
  - when: {{model: '{NOVA}'}}
    reply: {{fault: {{error: ThrottlingException}}}}
  - reply: {{text: hello}}
""")
    )
    runner = make_runner(meter, catalogue(NOVA, HAIKU), settings(attempts_per_model=1, backoff_max_seconds=30))

    for _ in range(2):
        assert (await runner.run(make_task(free_text), RememberingHost())).text == "hello"

    assert [record.model_id for record in endpoint.invoice.records()] == [NOVA, HAIKU, HAIKU]


async def test_a_long_retry_hint_sends_the_call_to_another_model_at_once(bench: Bench) -> None:
    result = await bench.run(nova="error: ThrottlingException, retry_after: '30'")

    assert result.text == f"from {HAIKU}"
    assert bench.asked() == [NOVA, HAIKU]


async def test_a_short_retry_hint_is_waited_out(bench: Bench) -> None:
    result = await bench.run(nova="error: ThrottlingException, retry_after: '0.03', times: 1")

    refused, answered = bench.endpoint.invoice.records()
    assert (result.text, answered.model_id) == (f"from {NOVA}", NOVA)
    assert answered.start_time - refused.end_time >= 30_000


async def test_a_model_throttled_for_longer_than_there_is_time_is_asked_to_conclude_from_what_there_is(
    endpoint: RunningEndpoint, runner: LlmRunner, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {text: "conclude"}
    reply: {text: "what I know"}
  - when: {has_tool_results: true}
    reply: {fault: {error: ThrottlingException, retry_after: '30'}}
  - reply: {tools: [{name: read_files, input: {paths: [a.py]}}]}
""")
    )

    result = await runner.run(make_task(free_text), RememberingHost())

    assert (result.text, result.reason, result.is_partial) == ("what I know", EndReason.LLM_ERROR, True)


async def test_the_best_of_several_broken_results_is_kept_and_is_what_was_heard_last(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, structured: Template
) -> None:
    endpoint.load_script(
        parse_script(f"""
rules:
  - times: 1
    reply: &whole
      tools: [{{name: {RESULT_TOOL}, input: {{summary: a long summary of it}}}}]
      chunk_chars: 4
      fault: {{error: ThrottlingException, after_chunks: 5}}
  - reply: {{<<: *whole, fault: {{error: ThrottlingException, after_chunks: 2}}}}
""")
    )
    host = RememberingHost()

    result = await make_runner(meter, llm_settings=settings(attempts_per_model=2)).run(make_task(structured), host)

    assert result.text == host.text == '{"summary":"a long s'
    assert (result.is_partial, result.reason) == (True, EndReason.LLM_ERROR)


async def test_a_whole_response_that_breaks_off_is_lost_and_charged_in_full(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("rules: [{times: 1, reply: {text: hello, fault: {drop_at_byte: 20}}}, {reply: {text: hello}}]")
    )

    result = await make_runner(meter, catalogue(NOVA, streaming=False)).run(make_task(free_text), RememberingHost())

    assert (result.text, result.is_partial) == ("hello", False)
    assert [hold.cost == hold.held for hold in meter.holds.values()] == [True, False]


async def test_an_input_that_the_model_calls_too_long_is_cut_and_offered_again(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(
        parse_script("""
rules:
  - when: {text: "bytes left out"}
    reply: {text: it fits}
  - reply: {fault: {error: ValidationException, message: "Input is too long for requested model."}}
""")
    )
    task = make_task(free_text, values={"query": "what is it?", "material": "a fact. " * 2000})

    host = RememberingHost()

    result = await make_runner(meter).run(task, host)

    assert (result.text, result.is_partial) == ("it fits", False)
    assert host.warnings == [f"the context of {NOVA} is full: what matters least was left out"]


async def test_an_endpoint_that_cannot_be_reached_costs_nothing(
    make_runner: Make, meter: ArithmeticMeter, free_text: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://127.0.0.1:1")

    result = await make_runner(meter).run(make_task(free_text), RememberingHost())

    assert (result.reason, result.cost, meter.spent) == (EndReason.LLM_ERROR, 0, 0)
    assert not meter.open
