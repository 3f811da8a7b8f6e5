"""Rates of models: no minute ever holds more than the quota, and what was not used is given back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from budget_svc.rates import ModelQuota, RateWindow
from budget_svc.settings import RateSettings
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS
from tests.budget_svc.house import House, ManualClock, refused
from tests.budget_svc.test_waiting import Turns

OpenHouse = Callable[..., Awaitable[House]]
QUOTA = ModelQuota(requests_per_minute=5, tokens_per_minute=100)


@given(st.lists(st.tuples(st.integers(0, 20 * MICROS), st.integers(1, 60)), max_size=60))
def test_no_minute_holds_more_than_the_quota_and_nobody_is_told_to_wait_too_long(steps: list[tuple[int, int]]) -> None:
    window = RateWindow("m")
    now = 1_000_000 * MICROS
    granted: list[tuple[int, int]] = []
    for pause, tokens in steps:
        now += pause
        if wait := wait_for(window, tokens, now):
            # In steps of a second, and for nobody longer than the minute and the second in which it began.
            assert 0 < wait <= 61 * MICROS
            now += wait
            window.take(QUOTA, tokens, now)
        granted.append((now, tokens))
        minute = [taken for at, taken in granted if now - 60 * MICROS < at <= now]
        assert len(minute) <= 5
        assert sum(minute) <= 100


def wait_for(window: RateWindow, tokens: int, now: int) -> int:
    """Takes from the window, or says how many microseconds to wait."""
    try:
        window.take(QUOTA, tokens, now)
    except ServiceError as denial:
        return round((denial.retry_after or 0) * MICROS)
    return 0


def test_a_window_survives_the_store() -> None:
    window = RateWindow("m")
    window.take(QUOTA, 40, 5 * MICROS)
    window.take(QUOTA, 20, 6 * MICROS)
    assert RateWindow.decoded("m", window.encoded()) == window


async def test_a_call_beyond_the_rate_is_told_when_to_come_again(open_house: OpenHouse, clock: ManualClock) -> None:
    house = await open_house(model_rates={"penny": RateSettings(requests_per_minute=2)})
    await house.create("request", 1000)
    await house.reserve("a", "request", 10)
    clock.pass_seconds(30)
    await house.reserve("b", "request", 10)
    error = await refused(house.reserve("c", "request", 10))
    assert (error.reason, error.metadata) == (ErrorReason.MODEL_RATE_EXCEEDED, {"model_id": "penny"})
    assert error.retry_after == 31
    assert await house.balances("request") == (0, 20)
    await house.reserve("dear", "tenant/acme/2026-11-23", 2, model_id="dear")  # other models have no rate
    clock.pass_seconds(31)
    await house.reserve("c", "request", 10)


async def test_what_was_not_used_of_a_rate_is_given_back(open_house: OpenHouse) -> None:
    house = await open_house(model_rates={"penny": RateSettings(requests_per_minute=2, tokens_per_minute=100)})
    await house.create("request", 1000)
    never = await refused(house.reserve("a", "request", 101))
    assert (never.reason, never.retry_after) == (ErrorReason.MODEL_RATE_EXCEEDED, None)
    await house.reserve("a", "request", 90, dispatch=True)
    assert (await refused(house.reserve("b", "request", 50))).reason is ErrorReason.MODEL_RATE_EXCEEDED
    await house.settle("a", 50)
    await house.reserve("b", "request", 50)
    assert (await refused(house.reserve("c", "request", 2))).reason is ErrorReason.MODEL_RATE_EXCEEDED
    await house.release("b")
    await house.reserve("c", "request", 50)


async def test_who_waits_for_a_rate_is_served_in_turn(open_house: OpenHouse, clock: ManualClock) -> None:
    house = await open_house(model_rates={"penny": RateSettings(requests_per_minute=1)})
    await house.create("a", 1000)
    await house.create("b", 1000)
    await house.reserve("first", "a", 10)
    turns = Turns(house)
    await turns.wait("second", "a", 10)
    await turns.wait("third", "b", 10)
    for count, expected in ((1, ["second"]), (2, ["second", "third"])):
        clock.pass_seconds(61)
        assert await turns.until(count) == expected


async def test_ids_that_name_the_same_model_share_its_rate(open_house: OpenHouse) -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc"
    house = await open_house(
        model_aliases={arn: "penny"}, model_rates={arn: RateSettings(requests_per_minute=1)}, retention_days=0
    )
    await house.create("request", 1000)
    await house.reserve("a", "request", 10, model_id=arn)
    assert (await refused(house.reserve("b", "request", 10))).reason is ErrorReason.MODEL_RATE_EXCEEDED
