"""The audit log: what is in its records, and that a change to a kept log shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from llm.audit import FIRST_HASH, masked, verify_chain
from llm.runner import LlmRunner
from llm.templates import Template
from local_bedrock.backends.script import Reply
from local_bedrock.server import RunningEndpoint
from tests.llm.support import (
    NOVA,
    ArithmeticMeter,
    RememberedAudit,
    RememberingHost,
    make_task,
    settings,
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
        assert record["template_hash"] == free_text.content_hash
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
        "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    ],
)
def test_what_looks_like_a_secret_is_masked(secret: str) -> None:
    assert masked(f"before {secret} after") == "before [masked] after"


def test_the_password_of_a_url_is_masked() -> None:
    assert masked("postgresql://user:pass123@host/db") == "postgresql://[masked]@host/db"
