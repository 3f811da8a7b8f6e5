"""Keeps the price file in step with what others publish.

    python tools/prices.py check     report what differs; exit 1 when a price of ours is lower than a source's, or missing
    python tools/prices.py write     write budget_svc/prices.toml anew from the sources, taking the higher where they conflict

The sources are two packages that only this tool needs: `pip install "genai-prices" && pip install --no-deps "litellm"`
(LiteLLM's figures are a JSON file inside its package, so none of what it depends on is used). Prices are read as decimals and
written as whole pico-USD per token; one that is finer is rounded up. Rows whose source begins with "notional", and those whose day
is still to come, are kept as they are. A row keeps its effective date for as long as its figures do not change.

What Bedrock publishes beyond this and the tool leaves out: prices of cache writes that last an hour (we cache for five minutes),
of single regions without an inference profile (name a price file of your own), images, audio, provisioned throughput.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from budget_svc.prices import BUNDLED, ListedPrice, Price, Rates, load_prices
from svc_common.times import now

Key = tuple[str, str]

_MODEL = re.compile(
    r"(?:(?:us|eu|apac|global|jp|au|in|us-gov)\.)?(?:amazon\.nova-(?!canvas|reel|.*sonic|.*embed)|anthropic\.claude-)[a-z0-9.:-]+"
)
_PREFIXES = ("", "us.", "eu.", "apac.", "global.")
_TIERS = {"": "", "priority": "_priority", "flex": "_flex", "batch": "_batches"}
_PICO = Decimal(10**12)


# What a source publishes of one price: pico-USD per token by figure, "long ..." for prompts above "long above" tokens.
Figures = dict[str, int]

_FIGURES = ("input", "output", "cache_read", "cache_write")
_LONG_ABOVE = "long above"


@dataclass(frozen=True, slots=True)
class Conflict:
    """One figure on which the sources disagree."""

    key: Key
    figure: str
    by_source: Mapping[str, int]


def pico(usd_per_token: Decimal) -> int:
    return int((usd_per_token * _PICO).to_integral_value(ROUND_CEILING))


def from_litellm(table: Mapping[str, Mapping[str, Any]]) -> dict[Key, Figures]:
    """Prices in LiteLLM's table, whose numbers must have been read as Decimal."""
    prices: dict[Key, Figures] = {}
    for model_id, row in table.items():
        if not str(row.get("litellm_provider", "")).startswith("bedrock") or not _MODEL.fullmatch(model_id):
            continue
        for tier, suffix in _TIERS.items():
            figures = _litellm_figures(row, "", suffix)
            for above in (100, 200):
                if long := _litellm_figures(row, "long ", f"_above_{above}k_tokens{suffix}"):
                    figures |= long | {_LONG_ABOVE: above * 1000}
                    break
            if "input" in figures and "output" in figures:
                prices[model_id, tier] = figures
    return prices


def _litellm_figures(row: Mapping[str, Any], band: str, suffix: str) -> Figures:
    names = (
        "input_cost_per_token",
        "output_cost_per_token",
        "cache_read_input_token_cost",
        "cache_creation_input_token_cost",
    )
    return {
        band + figure: pico(Decimal(row[name + suffix]))
        for figure, name in zip(_FIGURES, names, strict=True)
        if name + suffix in row
    }


def from_genai(models: Sequence[Any], model_ids: Iterable[str], at: datetime) -> dict[Key, Figures]:
    """Prices of genai-prices' Bedrock provider, whose ids stand for several of Bedrock's: each is asked for with every prefix,
    and so is each of `model_ids`."""
    bases = {model.id.removeprefix("regional.").removeprefix("global.") for model in models}
    asked = {prefix + base for base in bases for prefix in _PREFIXES} | set(model_ids)
    prices = {(model_id, ""): _genai_figures(models, model_id, at) for model_id in asked if _MODEL.fullmatch(model_id)}
    return {key: figures for key, figures in prices.items() if "input" in figures and "output" in figures}


def _genai_figures(models: Iterable[Any], model_id: str, at: datetime) -> Figures:
    model = next((model for model in models if model.is_match(model_id)), None)
    if model is None:
        return {}
    published = model.get_prices(at)
    figures: Figures = {}
    for figure in _FIGURES:
        value = getattr(published, f"{figure}_mtok")
        if value is None:
            continue
        figures[figure] = pico(getattr(value, "base", value) / 1_000_000)
        for tier in getattr(value, "tiers", ()):
            long = pico(tier.price / 1_000_000)
            figures[f"long {figure}"] = max(long, figures.get(f"long {figure}", 0))
            figures[_LONG_ABOVE] = min(tier.start, figures.get(_LONG_ABOVE, tier.start))
    return figures


def merge(sources: Mapping[str, Mapping[Key, Figures]]) -> tuple[dict[Key, tuple[Price, str]], list[Conflict]]:
    """The higher of each figure, with the names of the sources that list the model, and every conflict between them."""
    merged: dict[Key, tuple[Price, str]] = {}
    conflicts: list[Conflict] = []
    for key in sorted({key for prices in sources.values() for key in prices}):
        opinions = {name: prices[key] for name, prices in sources.items() if key in prices}
        conflicts += _conflicts(key, opinions)
        merged[key] = (highest(opinions.values()), ", ".join(opinions))
    return merged, conflicts


def highest(opinions: Iterable[Figures]) -> Price:
    """A price under which no published one lies. What nobody publishes costs the input price: a model without a cache price has
    no cache, or asks nothing extra for writing to it."""
    figures: Figures = {}
    for opinion in opinions:
        for figure, value in opinion.items():
            pick = min if figure == _LONG_ABOVE else max
            figures[figure] = pick(value, figures.get(figure, value))
    rates = Rates(*(figures.get(figure, figures["input"]) for figure in _FIGURES))
    if _LONG_ABOVE not in figures:
        return Price(rates)
    short = figures_of(Price(rates))
    long = Rates(*(max(figures.get(f"long {figure}", 0), short[figure]) for figure in _FIGURES))
    return Price(rates, figures[_LONG_ABOVE], long)


def figures_of(price: Price) -> Figures:
    figures = {figure: getattr(price.rates, figure) for figure in _FIGURES}
    if price.long:
        figures |= {f"long {figure}": getattr(price.long, figure) for figure in _FIGURES}
        figures[_LONG_ABOVE] = price.long_above
    return figures


def _conflicts(key: Key, opinions: Mapping[str, Figures]) -> list[Conflict]:
    conflicts = []
    for figure in dict.fromkeys(figure for own in opinions.values() for figure in own):
        by_source = {name: own[figure] for name, own in opinions.items() if figure in own}
        if len(set(by_source.values())) > 1:
            conflicts.append(Conflict(key, figure, by_source))
    return conflicts


def lines(rows: Iterable[ListedPrice]) -> Iterable[str]:
    """The rows of a price file, as it is written."""
    for row in rows:
        tier = f'tier = "{row.tier}", ' if row.tier else ""
        above = ""
        if row.price.long:
            above = f"above = {{ tokens = {row.price.long_above:_}, {_rates_text(row.price.long)} }}, "
        yield (
            f'    {{ model = "{row.model_id}", {tier}{_rates_text(row.price.rates)}, {above}'
            f'effective = {row.effective}, source = "{row.source}" }},'
        )


def _rates_text(rates: Rates) -> str:
    return (
        f"input = {rates.input:_}, output = {rates.output:_}, "
        f"cache_read = {rates.cache_read:_}, cache_write = {rates.cache_write:_}"
    )


HEADER = """\
# Prices of model calls in whole pico-USD (1e-12 USD) per token: 1 USD per million tokens is 1_000_000.
# Written by tools/prices.py from the sources named in each row, which takes the higher figure where they conflict; check it
# with `python tools/prices.py check`. `effective` is the day (UTC) from which a row holds; another row of the same model and tier
# may follow with a later one. `above` holds for calls whose prompt is longer than its `tokens`. Rows whose source begins with
# "notional" are ours and kept as they are.
"""


def read_sources(at: datetime) -> dict[str, dict[Key, Figures]]:
    """What the installed sources say, by source and version. Exits with a hint when one is not installed."""
    litellm, genai = importlib.util.find_spec("litellm"), importlib.util.find_spec("genai_prices")
    if litellm is None or genai is None or not litellm.submodule_search_locations:
        sys.exit('first: pip install "genai-prices" && pip install --no-deps "litellm"')
    path = Path(litellm.submodule_search_locations[0]) / "model_prices_and_context_window_backup.json"
    table = json.loads(path.read_text(), parse_float=Decimal)
    data = importlib.import_module("genai_prices.data")
    models = [model for provider in data.providers if provider.id == "aws" for model in provider.models]
    by_litellm = from_litellm(table)
    by_genai = from_genai(models, {model_id for model_id, _ in by_litellm}, at)
    return {f"litellm {version('litellm')}": by_litellm, f"genai-prices {version('genai-prices')}": by_genai}


def updated(
    listed: Mapping[Key, ListedPrice], merged: Mapping[Key, tuple[Price, str]], today: date
) -> list[ListedPrice]:
    """The rows of the new file: notional ones as they were, the others from the sources."""
    rows = [row for row in listed.values() if row.source.startswith("notional")]
    for (model_id, tier), (price, source) in merged.items():
        old = listed.get((model_id, tier))
        effective = old.effective if old and old.price == price else today.isoformat()
        rows.append(ListedPrice(model_id, tier, price, effective, source))
    return sorted(rows, key=lambda row: (row.model_id, row.tier))


def shortfalls(listed: Mapping[Key, ListedPrice], merged: Mapping[Key, tuple[Price, str]]) -> list[str]:
    """What the file must not be: lacking a model that a source prices, or cheaper than one."""
    found = []
    for key, (price, source) in merged.items():
        name = " ".join(filter(None, key))
        if key not in listed:
            found.append(f"{name}: missing; {source} lists it")
        elif highest([figures_of(listed[key].price), figures_of(price)]) != listed[key].price:
            found.append(f"{name}: ours {figures_of(listed[key].price)} is under {figures_of(price)} of {source}")
    return found


def main(arguments: list[str]) -> int:
    if arguments not in (["check"], ["write"]):
        print(__doc__, file=sys.stderr)
        return 2
    today = datetime.now(UTC)
    merged, conflicts = merge(read_sources(today))
    for conflict in conflicts:
        opinions = ", ".join(f"{name}: {value:_}" for name, value in conflict.by_source.items())
        print(f"conflict: {' '.join(filter(None, conflict.key))} {conflict.figure}: {opinions}")
    print(
        f"{len(merged)} prices, {len(conflicts)} conflicting figures in {len({each.key for each in conflicts})} of them"
    )
    prices = load_prices()
    listed = prices.in_force(now())
    if arguments == ["check"]:
        found = shortfalls(listed, merged)
        print("\n".join(found) or "the price file is nowhere under its sources")
        return 1 if found else 0
    rows = [*updated(listed, merged, today.date()), *prices.to_come(now())]
    BUNDLED.write_text(
        f'{HEADER}\nversion = "{today.date().isoformat()}"\n\nprice = [\n' + "\n".join(lines(rows)) + "\n]\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
