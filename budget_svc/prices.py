"""What a token costs: the price file, and the lookup of a model in it.

All prices are whole pico-USD per token, so a cost is a sum of products and never rounded.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from svc_common.errors import ErrorReason, ServiceError
from svc_common.money import checked
from svc_common.times import MICROS
from svc_common.tokens import TokenUsage

BUNDLED = Path(__file__).with_name("prices.toml")

# Bedrock's own name for the tier that a call without one gets.
_STANDARD_TIER = "default"

_AWS_OWN_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:[^:]*:[^:]*:(?:inference-profile|foundation-model)/(?P<id>.+)")


@dataclass(frozen=True, slots=True)
class Rates:
    """Pico-USD per token of each sort."""

    input: int
    output: int
    cache_read: int
    cache_write: int

    def cost(self, usage: TokenUsage) -> int:
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
        )

    def worst_case(self, max_input_tokens: int, max_output_tokens: int) -> int:
        return max_input_tokens * max(self.input, self.cache_read, self.cache_write) + max_output_tokens * self.output


@dataclass(frozen=True, slots=True)
class Price:
    """`long` holds for calls whose prompt is longer than `long_above` tokens; None where length makes no difference."""

    rates: Rates
    long_above: int = 0
    long: Rates | None = None

    def cost(self, usage: TokenUsage) -> int:
        """Pico-USD of a call. Raises AMOUNT_OVERFLOW."""
        rates = self.long if self.long and usage.prompt > self.long_above else self.rates
        return checked(rates.cost(usage))

    def worst_case(self, max_input_tokens: int, max_output_tokens: int) -> int:
        """The most that a call within these bounds can cost, in pico-USD. Raises AMOUNT_OVERFLOW."""
        if self.long is None or max_input_tokens <= self.long_above:
            return checked(self.rates.worst_case(max_input_tokens, max_output_tokens))
        short = self.rates.worst_case(self.long_above, max_output_tokens)
        return checked(max(short, self.long.worst_case(max_input_tokens, max_output_tokens)))

    def encoded(self) -> str:
        """A short text for a charge to keep, so that a later price file does not change what a running call costs."""
        bands = [self.rates] if self.long is None else [self.rates, self.long]
        numbers = [(band.input, band.output, band.cache_read, band.cache_write) for band in bands]
        return ";".join([str(self.long_above), *(",".join(map(str, band)) for band in numbers)])


@lru_cache(maxsize=4096)
def decode_price(text: str) -> Price:
    """The price that `Price.encoded` wrote."""
    long_above, *bands = text.split(";")
    rates = [Rates(*(int(number) for number in band.split(","))) for band in bands]
    return Price(rates[0], int(long_above), rates[1] if len(rates) > 1 else None)


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """A row of the price file. `effective` is the ISO day from which it holds; `source` says who published it."""

    model_id: str
    tier: str
    price: Price
    effective: str
    source: str


class PriceFileError(Exception):
    """The price file cannot be used; the message names file and row."""


class PriceList:
    """Prices by model or inference-profile id and service tier. `aliases` map ids of the account's own to listed ones.

    A model may have several rows of one tier, each with the day from which it holds.
    """

    def __init__(self, version: str, rows: Iterable[ListedPrice], aliases: Mapping[str, str]) -> None:
        self.version = version
        self._rows: dict[tuple[str, str], list[ListedPrice]] = {}
        for row in sorted(rows, key=lambda row: row.effective):
            self._rows.setdefault((row.model_id, row.tier), []).append(row)
        self._aliases = aliases

    def find(self, model_id: str, tier: str = "", *, now: int) -> ListedPrice:
        """The price of a call. Raises MODEL_NOT_PRICED: what has no price is not let through."""
        rows = self._rows.get((self.listed_id(model_id), "" if tier == _STANDARD_TIER else tier))
        if rows is None:
            asked = f"{model_id!r} in service tier {tier!r}" if tier else f"{model_id!r}"
            raise ServiceError(ErrorReason.MODEL_NOT_PRICED, f"model {asked} has no price in price file {self.version}")
        return _in_force(rows, now)

    def in_force(self, now: int) -> dict[tuple[str, str], ListedPrice]:
        """The price of every model and tier."""
        return {key: _in_force(rows, now) for key, rows in self._rows.items()}

    def to_come(self, now: int) -> list[ListedPrice]:
        """The rows that follow those in force."""
        return [row for rows in self._rows.values() for row in rows[rows.index(_in_force(rows, now)) + 1 :]]

    def listed_id(self, model_id: str) -> str:
        """The id under which the file may list a model: its alias, or what an ARN of AWS's own names, or itself."""
        if model_id in self._aliases:
            return self._aliases[model_id]
        match = _AWS_OWN_ARN.fullmatch(model_id)
        return match["id"] if match else model_id


def _in_force(rows: Sequence[ListedPrice], now: int) -> ListedPrice:
    """The row whose day came last, of rows in the order of their days; the first one before its day."""
    if len(rows) == 1:
        return rows[0]
    day = _day(now)
    return next((row for row in reversed(rows) if row.effective <= day), rows[0])


def _day(now: int) -> str:
    return datetime.fromtimestamp(now // MICROS, UTC).date().isoformat()


def load_prices(path: Path = BUNDLED, aliases: Mapping[str, str] | None = None) -> PriceList:
    """Reads a price file. Raises PriceFileError for one that is malformed, empty or lists a price twice."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PriceFileError(f"{path}: {error}") from error
    rows: list[ListedPrice] = []
    known: set[tuple[str, str, str]] = set()
    for number, row in enumerate(content.get("price", ()), start=1):
        try:
            listed = _listed(row)
        except (KeyError, TypeError, ValueError) as error:
            raise PriceFileError(f"{path}: price {number} ({row.get('model', 'unnamed')}): {error!r}") from error
        key = (listed.model_id, listed.tier, listed.effective)
        if key in known:
            raise PriceFileError(f"{path}: price {number}: {listed.model_id!r} tier {listed.tier!r} is listed twice")
        known.add(key)
        rows.append(listed)
    if not rows:
        raise PriceFileError(f"{path}: it lists no price")
    for alias, model_id in (aliases or {}).items():
        if not any(row.model_id == model_id and not row.tier for row in rows):
            raise PriceFileError(f"alias {alias!r} stands for {model_id!r}, which {path} does not list")
    return PriceList(str(content.get("version", "unversioned")), rows, dict(aliases or {}))


def _listed(row: Mapping[str, Any]) -> ListedPrice:
    effective = row["effective"]
    if not isinstance(effective, date):
        raise ValueError("effective must be a date")
    above = row.get("above")
    price = Price(_rates(row)) if above is None else Price(_rates(row), _whole(above, "tokens"), _rates(above))
    return ListedPrice(row["model"], row.get("tier", ""), price, effective.isoformat(), row["source"])


def _rates(row: Mapping[str, Any]) -> Rates:
    return Rates(*(_whole(row, key) for key in ("input", "output", "cache_read", "cache_write")))


def _whole(row: Mapping[str, Any], key: str) -> int:
    value = row[key]
    if type(value) is not int or value < 0:
        raise ValueError(f"{key} must be a whole number, 0 or more")
    return value
