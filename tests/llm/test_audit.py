"""The audit log: what is in its records, and that a change to a kept log shows."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from llm.audit import FIRST_HASH, verify_chain
from llm.audit_trail import AuditTrail
from llm.masking import masked, masked_within
from llm.runner import LlmRunner
from llm.templates import Template
from local_bedrock.backends.script import Reply, parse_script
from local_bedrock.server import RunningEndpoint
from svc_common.errors import ErrorReason, ServiceError
from svc_common.tokens import TokenUsage
from tests.llm.support import (
    NOVA,
    ArithmeticMeter,
    RememberedAudit,
    RememberingHost,
    make_task,
    settings,
    until,
)

Make = Callable[..., LlmRunner]


@dataclass(frozen=True)
class Record:
    sequence: int
    job_id: str
    record_json: str
    previous_hash: str
    hash: str


def chain(contents: Sequence[str]) -> list[Record]:
    records: list[Record] = []
    previous = FIRST_HASH
    for sequence, content in enumerate(contents, start=1):
        digest = hashlib.sha256(f"{previous}\n{sequence}\njob\n{content}".encode()).hexdigest()
        records.append(Record(sequence, "job", content, previous, digest))
        previous = digest
    return records


def test_a_chain_shows_what_was_changed_removed_or_put_in() -> None:
    log = chain(["{}", '{"a":1}', "{}", "{}"])

    assert verify_chain(log) is None
    assert verify_chain([]) is None
    assert verify_chain([log[0], replace(log[1], record_json='{"a":2}'), *log[2:]]) == 2
    assert verify_chain([log[0], *log[2:]]) == 3
    assert verify_chain([log[0], log[1], log[1], *log[2:]]) == 2
    assert verify_chain(log[1:]) == 2


async def test_each_model_call_and_message_is_recorded_without_its_content(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(lambda _: Reply(text="the answer"))
    sink = RememberedAudit()

    runner = make_runner(meter, audit_sink=sink)

    result = await runner.run(make_task(free_text, caller="job-0"), RememberingHost())
    await runner.close()

    asked, called, answered = [json.loads(record) for record in sink.records]
    assert (asked["type"], asked["from"], asked["to"]) == ("message", "job-0", "job-1")
    assert (answered["from"], answered["to"], answered["outcome"]) == ("job-1", "job-0", "complete")
    assert (called["type"], called["model"], called["outcome"]) == ("model_call", NOVA, "end_turn")
    assert called["cost_pico_usd"] == result.cost == answered["cost_pico_usd"]
    assert called["usage"]["output_tokens"] == result.usage.output_tokens
    for record in (asked, called, answered):
        assert (record["template_version"], record["template_hash"]) == ("1", free_text.content_hash)
        assert record["request_id"] == "request-1"
        assert len(record["content_hash"]) == 64
        assert "content" not in record
    assert sink.records[0] == json.dumps(asked, sort_keys=True, separators=(",", ":"))


async def test_content_is_recorded_when_a_setting_says_so_with_secrets_masked(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(lambda _: Reply(text="use AKIAABCDEFGHIJKLMNOP"))
    sink = RememberedAudit()
    task = make_task(free_text, values={"query": "what is it?", "material": 'password = "hunter2secret"'})

    runner = make_runner(meter, None, settings(audit_content=True), sink)

    await runner.run(task, RememberingHost())
    await runner.close()

    log = "\n".join(sink.records)
    assert "what is it?" in log
    assert "AKIA" not in log
    assert "hunter2secret" not in log


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAABCDEFGHIJKLMNOP",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "npm_abcdefghijklmnopqrstuvwxyz0123456789",
        "sk_live_abcdefghijklmnopqrstuvwx",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    ],
)
def test_what_looks_like_a_secret_is_masked(secret: str) -> None:
    assert masked(f"before {secret} after") == "before [masked] after"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("postgresql://user:pass123@host/db", "postgresql://[masked]@host/db"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPx and so on", "AWS_SECRET_ACCESS_KEY=[masked] and so on"),
        ("SECRET_KEY = 'django insecure abc'", "SECRET_KEY = '[masked]'"),
        ("access_key: abcdefghijkl", "access_key: [masked]"),
        ("private_key: abcdefgh", "private_key: [masked]"),
        ("DB_PASSWORD_PROD=hunter2secret", "DB_PASSWORD_PROD=[masked]"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: [masked]"),
        (r"{\"password\":\"hunter2\",\"user\":\"me\"}", r"{\"password\":\"[masked]\",\"user\":\"me\"}"),
        (r'{"password": "say \"hunter2\" twice", "user": "me"}', '{"password": "[masked]", "user": "me"}'),
        ("max_tokens: 1000000, tokenizer = WordPiece", "max_tokens: 1000000, tokenizer = WordPiece"),
    ],
)
def test_what_goes_under_the_name_of_a_secret_is_masked(text: str, kept: str) -> None:
    assert masked(text) == kept


def test_values_under_the_name_of_a_secret_are_masked_at_any_depth() -> None:
    spoken = {"toolUse": {"input": {"password": "hunter2secret", "apiKeys": ["a", {"b": "c"}], "input_tokens": 7}}}

    kept = masked_within(spoken)["toolUse"]["input"]

    assert kept == {"password": "[masked]", "apiKeys": ["[masked]", {"b": "[masked]"}], "input_tokens": 7}


async def test_records_are_kept_across_an_absence_of_their_keeper_in_order_and_once() -> None:
    class AwayAtFirst:
        def __init__(self) -> None:
            self.kept: dict[str, Sequence[str]] = {}
            self.asked: list[str] = []

        async def append(self, root_id: str, job_id: str, records: Sequence[str], append_id: str) -> None:
            self.asked.append(append_id)
            if len(self.asked) == 1:
                raise ServiceError(ErrorReason.SERVICE_UNAVAILABLE, "away")
            self.kept.setdefault(append_id, records)
            if len(self.asked) == 2:
                raise ServiceError(ErrorReason.DEADLINE_EXCEEDED, "kept, but the response was lost")

    sink = AwayAtFirst()
    trail = AuditTrail(sink, "root", "job")
    trail.add(lambda: "1")
    await until(lambda: bool(sink.asked))
    trail.add(lambda: "2")
    assert trail.sending is not None
    await trail.sending

    assert [list(records) for records in sink.kept.values()] == [["1"], ["2"]]
    assert len(set(sink.asked[:3])) == 1


async def test_every_try_that_is_charged_is_recorded(
    endpoint: RunningEndpoint, make_runner: Make, meter: ArithmeticMeter, free_text: Template
) -> None:
    endpoint.load_script(parse_script("rules: [{times: 1, reply: {fault: {drop: true}}}, {reply: {text: the answer}}]"))
    sink = RememberedAudit()
    runner = make_runner(meter, audit_sink=sink)

    await runner.run(make_task(free_text), RememberingHost())
    await runner.close()

    calls = [record for record in map(json.loads, sink.records) if record["type"] == "model_call"]
    assert [call["outcome"] for call in calls] == ["lost", "end_turn"]
    assert [call["charge_id"] for call in calls] == list(meter.holds)
    assert [call["cost_pico_usd"] for call in calls] == [hold.cost for hold in meter.holds.values()]


@pytest.mark.parametrize("moment", ["in the stream", "in the settlement"])
async def test_a_call_that_is_cancelled_after_it_was_sent_is_recorded(
    endpoint: RunningEndpoint, make_runner: Make, free_text: Template, moment: str
) -> None:
    pace = "endless: true, chunk_s: 0.02" if moment == "in the stream" else "chunk_s: 0"
    endpoint.load_script(parse_script(f"rules: [{{reply: {{text: 'word ', {pace}}}}}]"))

    class SlowMeter(ArithmeticMeter):
        settling = asyncio.Event()
        may_settle = asyncio.Event()

        async def settle(self, charge_id: str, usage: TokenUsage | None) -> int:
            self.settling.set()
            await self.may_settle.wait()
            return await super().settle(charge_id, usage)

    meter, sink, host = SlowMeter(), RememberedAudit(), RememberingHost()
    runner = make_runner(meter, audit_sink=sink)
    running = asyncio.create_task(runner.run(make_task(free_text), host))
    await (host.heard if moment == "in the stream" else meter.settling).wait()

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    meter.may_settle.set()
    await runner.close()

    [call] = [record for record in map(json.loads, sink.records) if record["type"] == "model_call"]
    [hold] = meter.holds.values()
    assert call["outcome"] == ("cancelled" if moment == "in the stream" else "end_turn")
    assert call["cost_pico_usd"] == hold.held
