"""The price file: complete, exact, and total in its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget_svc.prices import Price, PriceFileError, Rates, decode_price, load_prices
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import DAY, MICROS
from svc_common.tokens import TokenUsage

# 2026-11-23 06:00 UTC.
NOW = 1_795_413_600 * MICROS

rates = st.builds(Rates, *(st.integers(0, 10**9) for _ in range(4)))
prices = st.one_of(st.builds(Price, rates), st.builds(Price, rates, long_above=st.integers(1, 10**6), long=rates))
tokens = st.integers(0, 10**6)


@given(prices)
def test_a_price_survives_the_charge_that_keeps_it(price: Price) -> None:
    assert decode_price(price.encoded()) == price


@given(prices, st.builds(TokenUsage, tokens, tokens, tokens, tokens), tokens, tokens)
def test_no_call_within_its_bounds_costs_more_than_its_worst_case(
    price: Price, usage: TokenUsage, spare_input: int, spare_output: int
) -> None:
    worst = price.worst_case(usage.prompt + spare_input, usage.output_tokens + spare_output)
    assert price.cost(usage) <= worst


def test_a_long_prompt_costs_its_own_price_as_a_whole() -> None:
    price = load_prices().find("global.anthropic.claude-haiku-5-5", now=NOW).price
    assert price.long is not None
    at, above = TokenUsage(price.long_above), TokenUsage(price.long_above + 1)
    assert price.cost(at) == price.long_above * price.rates.input
    assert price.cost(above) == (price.long_above + 1) * price.long.input


@pytest.mark.parametrize("prefix", ["", "us.", "eu.", "apac.", "global."])
@pytest.mark.parametrize(
    "model",
    [
        "amazon.nova-micro-v1:0",
        "amazon.nova-lite-v1:0",
        "amazon.nova-pro-v1:0",
        "amazon.nova-premier-v1:0",
        "amazon.nova-2-lite-v1:0",
        "anthropic.claude-3-haiku-20240307-v1:0",
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "anthropic.claude-3-7-sonnet-20250219-v1:0",
        "anthropic.claude-sonnet-4-20250514-v1:0",
        "anthropic.claude-opus-4-6-v1:0",
        "anthropic.claude-sonnet-5",
    ],
)
def test_the_bundled_file_prices_every_family_with_its_region_prefixes(prefix: str, model: str) -> None:
    listed = load_prices().find(prefix + model, now=NOW)
    assert 0 < listed.price.rates.cache_read <= listed.price.rates.input < listed.price.rates.output
    assert listed.effective
    assert listed.source


def test_figures_that_everybody_can_look_up() -> None:
    nova = load_prices().find("us.amazon.nova-lite-v1:0", now=NOW).price.rates
    assert (nova.input, nova.output) == (60_000, 240_000)  # 0.06 and 0.24 USD per million tokens
    assert load_prices().find("amazon.nova-pro-v1:0", "flex", now=NOW).price.rates.input == 400_000
    assert load_prices().find("amazon.nova-pro-v1:0", "default", now=NOW).tier == ""
    assert load_prices().find("local.smollm2-135m", now=NOW).source.startswith("notional")


def test_what_is_not_listed_is_refused() -> None:
    listed = load_prices()
    for model_id, tier in (
        ("amazon.nova-lite-v9:0", ""),
        ("us-west.amazon.nova-lite-v1:0", ""),
        ("amazon.nova-micro-v1:0", "gold"),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc", ""),
        ("", ""),
    ):
        with pytest.raises(ServiceError) as caught:
            listed.find(model_id, tier, now=NOW)
        assert caught.value.reason is ErrorReason.MODEL_NOT_PRICED


def test_an_arn_is_priced_by_what_it_names_or_by_configuration() -> None:
    own = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc"
    listed = load_prices(aliases={own: "eu.amazon.nova-pro-v1:0"})
    assert listed.find(own, now=NOW).model_id == "eu.amazon.nova-pro-v1:0"
    for arn in (
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-lite-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
    ):
        assert listed.find(arn, now=NOW).model_id == arn.rpartition("/")[2]


ROW = 'model = "m", input = 1, output = 2, cache_read = 0, cache_write = 1, effective = 2026-01-01, source = "s"'


def test_of_several_rows_the_one_whose_day_came_last_holds(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    successor = ROW.replace("input = 1", "input = 9").replace("2026-01-01", "2026-11-24")
    path.write_text(f"price = [{{ {successor} }}, {{ {ROW} }}]")
    listed = load_prices(path)
    inputs = [listed.find("m", now=time).price.rates.input for time in (0, NOW, NOW + DAY)]
    assert inputs == [1, 1, 9]
    assert [row.effective for row in listed.to_come(NOW)] == ["2026-11-24"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "lists no price"),
        ("price = [", "Invalid|Unclosed|Unexpected"),
        (f"price = [{{ {ROW} }}, {{ {ROW} }}]", "listed twice"),
        (f"price = [{{ {ROW.replace('input = 1', 'input = 1.5')} }}]", r"price 1 \(m\).*whole number"),
        (f"price = [{{ {ROW.replace('output = 2', 'output = -2')} }}]", "whole number"),
        (f"price = [{{ {ROW.replace('cache_read = 0,', '')} }}]", "cache_read"),
        (f"price = [{{ {ROW.replace('2026-01-01', '1')} }}]", r"price 1 \(m\)"),
    ],
)
def test_a_malformed_file_is_refused_with_its_row(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(content)
    with pytest.raises(PriceFileError, match=complaint) as caught:
        load_prices(path)
    assert str(path) in str(caught.value)


def test_an_alias_must_stand_for_something_listed() -> None:
    with pytest.raises(PriceFileError, match="alias 'x' stands for 'nothing'"):
        load_prices(aliases={"x": "nothing"})
