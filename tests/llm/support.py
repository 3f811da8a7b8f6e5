"""What the tests of llm/ share: a runner over the scripted endpoint, a meter of pure arithmetic, and hosts that remember."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3

from llm.audit_trail import AuditSink
from llm.bedrock import BedrockClient
from llm.catalogue import Catalogue, Model
from llm.conversation import Conversation
from llm.gateway import Gateway
from llm.instance import Task, ToolOutcome, ToolSpec, ToolUse
from llm.loop import Parts
from llm.metering import Denied, Meter, Prices, Reservation
from llm.notices import load_notices
from llm.runner import LlmRunner
from llm.settings import LlmSettings
from llm.templates import Template, load_template
from svc_common.errors import ErrorReason
from svc_common.times import MICROS, now
from svc_common.tokens import TokenUsage

PROMPTS = Path(__file__).parents[2] / "doc" / "llm" / "prompts"
NOVA = "amazon.nova-lite-v1:0"
HAIKU = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
PRICES = Prices(input=60_000, output=240_000)

READ_FILES = ToolSpec(
    "read_files",
    "Reads files.",
    {
        "type": "object",
        "properties": {"paths": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
        "required": ["paths"],
        "additionalProperties": False,
    },
)
SUMMARY_SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "score": {"type": "number", "maximum": 1}},
    "required": ["summary"],
}


@dataclass
class Hold:
    reservation: Reservation
    held: int
    cost: int | None = None
    usage: TokenUsage | None = None


class ArithmeticMeter:
    """A meter with one limit and no service behind it. `conclusion_reserve` is the part of the limit kept for conclusions."""

    def __init__(self, limit: int = 10**12, conclusion_reserve: int = 0) -> None:
        self.limit = limit
        self.conclusion_reserve = conclusion_reserve
        self.holds: dict[str, Hold] = {}
        self.abandoned: list[str] = []

    @property
    def spent(self) -> int:
        return sum(hold.cost or 0 for hold in self.holds.values())

    @property
    def open(self) -> list[Hold]:
        return [hold for hold in self.holds.values() if hold.cost is None]

    async def reserve(self, reservation: Reservation) -> int:
        worst = reservation.max_input_tokens * PRICES.input + reservation.max_output_tokens * PRICES.output
        available = self.limit - self.spent - sum(hold.held for hold in self.open)
        available -= 0 if reservation.is_conclusion else self.conclusion_reserve
        if worst > available:
            raise Denied(ErrorReason.BUDGET_EXCEEDED, "no room", available=available, retry_after=None)
        self.holds[reservation.charge_id] = Hold(reservation, worst)
        return worst

    async def settle(self, charge_id: str, usage: TokenUsage | None) -> int:
        hold = self.holds[charge_id]
        hold.usage = usage
        hold.cost = hold.held if usage is None else usage.prompt * PRICES.input + usage.output_tokens * PRICES.output
        return hold.cost

    async def abandon(self, charge_id: str) -> None:
        self.abandoned.append(charge_id)
        self.holds.pop(charge_id, None)

    async def renew(self, charge_id: str, lease: float) -> None:
        pass

    async def prices(self, model_id: str) -> Prices:
        return PRICES


class RememberedAudit:
    def __init__(self) -> None:
        self.records: list[str] = []

    async def append(self, root_id: str, job_id: str, records: Sequence[str], append_id: str) -> None:
        self.records += records


@dataclass
class RememberingHost:
    """Runs tools by a function from a call to an outcome, and remembers what it was told."""

    tool: Callable[[ToolUse], ToolOutcome] = lambda use: ToolOutcome(f"result of {use.name}")
    text: str = ""
    restarts: int = 0
    rounds: list[tuple[int, str, list[ToolUse]]] = field(default_factory=list)
    checkpoints: list[bytes] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
        self.rounds.append((round, thought, list(uses)))
        return [self.tool(use) for use in uses]

    async def on_text(self, text: str) -> None:
        self.text += text
        self.heard.set()

    async def on_restart(self) -> None:
        self.text = ""
        self.restarts += 1

    async def on_turn(self, conversation: Conversation) -> None:
        self.checkpoints.append(conversation.to_json())

    async def on_warning(self, message: str) -> None:
        self.warnings.append(message)


def catalogue(*model_ids: str, **abilities: Any) -> Catalogue:
    """A catalogue of models that can do everything, unless `abilities` say otherwise; all serve every role, in order."""
    can: dict[str, Any] = {
        "context_window": 100_000,
        "max_output": 4_000,
        "tool_choice": frozenset({"auto", "any", "tool"}),
        **abilities,
    }
    ids = model_ids or (NOVA,)
    return Catalogue({model_id: Model(id=model_id, **can) for model_id in ids}, {"fast": ids})


def settings(**changes: Any) -> LlmSettings:
    """Settings with short pauses."""
    quick: dict[str, Any] = {"backoff_seconds": 0.01, "backoff_max_seconds": 0.05, "region": "us-east-1"}
    return LlmSettings(**{**quick, **changes})


async def until(condition: Callable[[], bool]) -> None:
    """Waits, with a bound, for what no event tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@cache
def session() -> boto3.Session:
    """One for all tests: it keeps the service's description, which takes long to read."""
    return boto3.Session(aws_access_key_id="AKIDANY", aws_secret_access_key="any", region_name="us-east-1")


def make_runner(
    meter: Meter,
    known: Catalogue | None = None,
    llm_settings: LlmSettings | None = None,
    audit_sink: AuditSink | None = None,
) -> LlmRunner:
    chosen = llm_settings or settings()
    gateway = Gateway(chosen, BedrockClient(chosen, session()), meter)
    return LlmRunner(Parts(chosen, known or catalogue(), load_notices(PROMPTS), gateway), audit_sink)


def template(folder: Path, schema: Mapping[str, Any] | None = None) -> Template:
    block = f"\n```json\n{json.dumps(schema)}\n```\n" if schema else ""
    path = folder / "test_tool.md"
    path.write_text(
        "# Test\nVersion: 1\n\n## System Instruction\n\nYou help.\n\n## User Query Format\n\nMaterial:\n{{material}}\n\n"
        f"Question:\n{{{{query}}}}\n\n## Example Usage\n\nNone.\n\n## Response Format\n\nShort.\n{block}"
    )
    return load_template(path, {"query", "material"})


def make_task(used: Template, seconds: float = 20.0, **changes: Any) -> Task:
    values = {
        "instance_id": "job-1",
        "request_id": "request-1",
        "root_id": "request-1",
        "budget_id": "job-1",
        "role": "fast",
        "template": used,
        "values": {"query": "what is it?", "material": "it is a thing"},
        "tools": (READ_FILES,),
        "deadline": now() + int(seconds * MICROS),
        "max_rounds": 4,
        "max_output_tokens": 1000,
        "response_schema": used.response_schema,
    }
    return Task(**{**values, **changes})
