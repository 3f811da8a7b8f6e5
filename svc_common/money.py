"""Money: int pico-USD (1e-12 USD) everywhere inside, `dbp.common.v1.Amount` on the wire. Never float.

The rounding rule: inside, nothing is ever rounded. A price is a whole number of pico-USD per token (tools/prices.py rounds one that
is published finer up, when it writes the price file), so every cost is an exact sum of products. Only where an amount is shown as
google.type.Money, whose unit is nano-USD, is it rounded, half away from zero; what is read back is `pico_usd`. A sum that leaves
int64 is refused (AMOUNT_OVERFLOW), never clipped.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from dbp.common.v1 import common_pb2

from svc_common.errors import ErrorReason, ServiceError, invalid_field

PICO = 10**12
_PICO_PER_NANO = 1000
_NANO = 10**9
MAX_PICO_USD = 2**63 - 1


def checked(pico_usd: int) -> int:
    """The amount itself. Raises AMOUNT_OVERFLOW when it leaves the range of int64."""
    if not -MAX_PICO_USD - 1 <= pico_usd <= MAX_PICO_USD:
        raise ServiceError(ErrorReason.AMOUNT_OVERFLOW, "an amount leaves the range of int64 pico-USD")
    return pico_usd


def to_amount(pico_usd: int) -> common_pb2.Amount:
    sign = -1 if pico_usd < 0 else 1
    nanos = (abs(pico_usd) + _PICO_PER_NANO // 2) // _PICO_PER_NANO
    amount = common_pb2.Amount(pico_usd=pico_usd)
    # In place, for a quarter of what a Money of its own and its copy would cost: every reply holds a few.
    money = amount.money
    money.currency_code, money.units, money.nanos = "USD", sign * (nanos // _NANO), sign * (nanos % _NANO)
    return amount


def from_amount(amount: common_pb2.Amount, field: str) -> int:
    """Pico-USD of an amount that a client filled in either way. Raises INVALID_ARGUMENT naming `field`."""
    if not amount.HasField("money"):
        return amount.pico_usd
    money = amount.money
    if money.currency_code not in ("", "USD"):
        raise invalid_field(f"{field}.money.currency_code", "only USD is known")
    if abs(money.nanos) >= _NANO or (money.units > 0 > money.nanos) or (money.units < 0 < money.nanos):
        raise invalid_field(f"{field}.money.nanos", "must be under 1e9 in size and of the sign of units")
    if not amount.pico_usd:
        return checked((money.units * _NANO + money.nanos) * _PICO_PER_NANO)
    shown = to_amount(amount.pico_usd).money
    if (shown.units, shown.nanos) != (money.units, money.nanos):
        raise invalid_field(field, "money and pico_usd disagree")
    return amount.pico_usd


def parse_usd(text: str) -> int:
    """Pico-USD of a decimal number of US dollars such as "0.05". Raises ValueError when it is none or too fine."""
    try:
        pico = Decimal(text) * PICO
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not an amount of US dollars") from error
    if not pico.is_finite() or pico != pico.to_integral_value() or abs(pico) > MAX_PICO_USD:
        raise ValueError(f"{text!r} is not a whole number of pico-USD within range")
    return int(pico)


def format_usd(pico_usd: int) -> str:
    """US dollars for people, exact, with at least two and no needless decimals: "0.05", "0.00000342"."""
    sign = "-" if pico_usd < 0 else ""
    units, fraction = divmod(abs(pico_usd), PICO)
    decimals = f"{fraction:012d}".rstrip("0").ljust(2, "0")
    return f"{sign}{units}.{decimals}"
