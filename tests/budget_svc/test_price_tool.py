"""tools/prices.py: what it reads, and that it takes the higher figure on conflict and reports each."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from budget_svc.prices import Price, Rates, load_prices
from svc_common.times import MICROS
from tools import prices

TODAY = datetime(2026, 11, 23, tzinfo=UTC)
NOW = round(TODAY.timestamp()) * MICROS
LITE = "amazon.nova-lite-v1:0"


@dataclass
class Tier:
    start: int
    price: Decimal


@dataclass
class Tiered:
    base: Decimal
    tiers: list[Tier]


@dataclass
class Published:
    """One model as genai-prices has it: USD per million tokens."""

    id: str
    input_mtok: Decimal | Tiered
    output_mtok: Decimal | Tiered
    cache_read_mtok: Decimal | None = None
    cache_write_mtok: Decimal | None = None
    refs: set[str] = field(default_factory=set)

    def is_match(self, ref: str) -> bool:
        return ref in self.refs

    def get_prices(self, at: datetime) -> Published:
        return self


def test_litellms_table_is_read_with_tiers_and_long_prompts_and_without_what_is_no_chat() -> None:
    row = {
        "litellm_provider": "bedrock_converse",
        "input_cost_per_token": Decimal("6e-08"),
        "output_cost_per_token": Decimal("2.4e-07"),
        "cache_read_input_token_cost": Decimal("1.50005e-08"),
        "input_cost_per_token_flex": Decimal("3e-08"),
        "output_cost_per_token_flex": Decimal("1.2e-07"),
        "input_cost_per_token_above_200k_tokens": Decimal("1.2e-07"),
        "output_cost_per_token_above_200k_tokens": Decimal("3e-07"),
    }
    read = prices.from_litellm(
        {
            LITE: row,
            "amazon.nova-canvas-v1:0": row,
            "bedrock/us-gov-west-1/amazon.nova-lite-v1:0": row,
            "anthropic.claude-sonnet-5": {**row, "litellm_provider": "vertex_ai"},
            "us.anthropic.claude-sonnet-5": {"litellm_provider": "bedrock", "input_cost_per_token": Decimal(1)},
        }
    )
    assert set(read) == {(LITE, ""), (LITE, "flex")}
    assert read[LITE, ""]["cache_read"] == 15_001  # finer than a pico-USD: rounded up
    price = prices.highest([read[LITE, ""]])
    assert price == Price(Rates(60_000, 240_000, 15_001, 60_000), 200_000, Rates(120_000, 300_000, 15_001, 60_000))


def test_genais_models_are_asked_for_by_every_id_they_may_have() -> None:
    model = Published(
        f"regional.{LITE}",
        Tiered(Decimal("0.06"), [Tier(200_000, Decimal("0.12"))]),
        Decimal("0.24"),
        refs={LITE, f"us.{LITE}", f"jp.{LITE}"},
    )
    read = prices.from_genai([model], [f"jp.{LITE}", "jp.amazon.nova-pro-v1:0"], TODAY)
    assert set(read) == {(LITE, ""), (f"us.{LITE}", ""), (f"jp.{LITE}", "")}
    assert read[LITE, ""] == {"input": 60_000, "output": 240_000, "long input": 120_000, "long above": 200_000}


def test_the_higher_figure_is_taken_and_each_conflict_reported() -> None:
    sources = {
        "one": {(LITE, ""): {"input": 5, "output": 9, "cache_read": 1}},
        "two": {(LITE, ""): {"input": 6, "output": 8}, ("other", ""): {"input": 1, "output": 1}},
    }
    merged, conflicts = prices.merge(sources)
    assert merged[LITE, ""] == (Price(Rates(6, 9, 1, 6)), "one, two")
    assert merged["other", ""] == (Price(Rates(1, 1, 1, 1)), "two")
    assert [(each.figure, each.by_source) for each in conflicts] == [
        ("input", {"one": 5, "two": 6}),
        ("output", {"one": 9, "two": 8}),
    ]


def test_a_file_is_updated_without_losing_what_is_ours(tmp_path: Path) -> None:
    listed = load_prices().in_force(NOW)
    merged, _ = prices.merge({"s": {(LITE, ""): {"input": 1, "output": 2}}})
    rows = prices.updated(listed, merged, date(2027, 1, 1))
    path = tmp_path / "prices.toml"
    path.write_text("price = [\n" + "\n".join(prices.lines(rows)) + "\n]\n")
    written = load_prices(path).in_force(NOW)
    assert set(written) == {(LITE, ""), ("local.smollm2-135m", "")}
    assert written[LITE, ""].effective == "2027-01-01"
    assert written["local.smollm2-135m", ""] == listed["local.smollm2-135m", ""]
    again = prices.updated(written, merged, date(2028, 1, 1))
    assert [row.effective for row in again if row.model_id == LITE] == ["2027-01-01"]


def test_what_the_file_lacks_or_sells_too_cheap_is_found() -> None:
    listed = load_prices().in_force(NOW)
    same, _ = prices.merge({"s": {(LITE, ""): prices.figures_of(listed[LITE, ""].price)}})
    assert prices.shortfalls(listed, same) == []
    dearer, _ = prices.merge({"s": {(LITE, ""): {"input": 10**9, "output": 1}, ("new", ""): {"input": 1, "output": 1}}})
    assert [each.split(":")[0] for each in prices.shortfalls(listed, dearer)] == ["amazon.nova-lite-v1", "new"]
