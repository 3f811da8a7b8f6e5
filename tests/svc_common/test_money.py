from __future__ import annotations

import pytest
from dbp.common.v1 import common_pb2
from google.type import money_pb2
from hypothesis import given
from hypothesis import strategies as st

from svc_common.errors import ErrorReason, ServiceError
from svc_common.money import MAX_PICO_USD, checked, format_usd, from_amount, parse_usd, to_amount

amounts = st.integers(-MAX_PICO_USD, MAX_PICO_USD)


@given(amounts)
def test_an_amount_survives_the_wire_and_the_terminal_exactly(pico_usd: int) -> None:
    assert from_amount(to_amount(pico_usd), "limit") == pico_usd
    assert parse_usd(format_usd(pico_usd)) == pico_usd


@given(amounts)
def test_money_is_within_half_a_nano_of_the_truth(pico_usd: int) -> None:
    money = to_amount(pico_usd).money
    assert abs((money.units * 10**9 + money.nanos) * 1000 - pico_usd) <= 500
    assert money.units * money.nanos >= 0


def test_money_alone_is_enough() -> None:
    assert from_amount(common_pb2.Amount(money=money_pb2.Money(units=1, nanos=500_000_000)), "x") == 1_500_000_000_000


@pytest.mark.parametrize(
    "amount",
    [
        common_pb2.Amount(money=money_pb2.Money(currency_code="EUR", units=1)),
        common_pb2.Amount(money=money_pb2.Money(units=1, nanos=-1)),
        common_pb2.Amount(money=money_pb2.Money(units=1, nanos=10**9)),
        common_pb2.Amount(pico_usd=2_000_000_000_000, money=money_pb2.Money(units=1)),
    ],
)
def test_an_amount_that_contradicts_itself_is_refused(amount: common_pb2.Amount) -> None:
    with pytest.raises(ServiceError) as caught:
        from_amount(amount, "max_cost")
    assert caught.value.violations[0].field.startswith("max_cost")


def test_overflow_is_refused() -> None:
    with pytest.raises(ServiceError) as caught:
        checked(MAX_PICO_USD + 1)
    assert caught.value.reason is ErrorReason.AMOUNT_OVERFLOW
    with pytest.raises(ServiceError):
        from_amount(common_pb2.Amount(money=money_pb2.Money(units=10**10)), "x")


@pytest.mark.parametrize("text", ["", "abc", "NaN", "Infinity", "0.0000000000001", "1e30"])
def test_text_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_usd(text)
