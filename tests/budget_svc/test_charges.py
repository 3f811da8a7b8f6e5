"""The life of a charge, as a caller sees it: repeated, out of order, late."""

from __future__ import annotations

import pytest
from dbp.budget.v1 import budget_pb2

from svc_common.errors import ErrorReason
from tests.budget_svc.house import House, ManualClock, refused

RESERVED = budget_pb2.Charge.STATE_RESERVED
DISPATCHED = budget_pb2.Charge.STATE_DISPATCHED
SETTLED = budget_pb2.Charge.STATE_SETTLED
CHARGED_IN_FULL = budget_pb2.Charge.STATE_CHARGED_IN_FULL
RELEASED = budget_pb2.Charge.STATE_RELEASED
EXPIRED = budget_pb2.Charge.STATE_EXPIRED


@pytest.fixture
async def job(house: House) -> House:
    await house.create("request", 1000)
    await house.create("job", 500, parent_id="request", tool="expert")
    return house


async def test_a_settled_call_moves_its_hold_to_spending_at_every_level(job: House) -> None:
    charge = await job.reserve("c", "job", 100)
    assert (charge.state, charge.reserved.pico_usd) == (RESERVED, 100)
    for budget_id in ("job", "request", "tenant/acme/2026-11-23"):
        assert await job.balances(budget_id) == (0, 100)
    await job.dispatch("c")
    settled = await job.settle("c", input_tokens=20, output_tokens=5, cache_read_tokens=3, cache_write_tokens=2)
    assert (settled.state, settled.cost.pico_usd, settled.over_reserved) == (SETTLED, 30, False)
    for budget_id in ("job", "request", "tenant/acme/2026-11-23"):
        budget = await job.budget(budget_id)
        assert (budget.spent.pico_usd, budget.held.pico_usd, budget.held_tokens, budget.charge_count) == (30, 0, 0, 1)
        assert (budget.tokens.input_tokens, budget.tokens.cache_write_tokens) == (20, 2)
    assert await job.verify() == []


async def test_everything_may_be_repeated(job: House) -> None:
    for _ in range(2):
        assert (await job.reserve("c", "job", 100)).state == RESERVED
    for _ in range(2):
        assert (await job.dispatch("c")).state == DISPATCHED
    assert (await job.reserve("c", "job", 100)).state == DISPATCHED
    for _ in range(2):
        assert (await job.settle("c", 30)).state == SETTLED
    assert (await job.settle("c")).cost.pico_usd == 30  # knowing less changes nothing
    assert await job.balances("request") == (30, 0)
    await job.reserve("r", "job", 100)
    for _ in range(2):
        assert (await job.release("r")).state == RELEASED
    assert await job.balances("request") == (30, 0)
    assert len(await job.entries("job")) == 5  # created, reserved, settled, reserved, released
    assert await job.verify() == []


async def test_a_reservation_may_dispatch_at_once_also_when_it_is_repeated(job: House) -> None:
    assert (await job.reserve("c", "job", 100, dispatch=True)).state == DISPATCHED
    await job.reserve("d", "job", 100)
    assert (await job.reserve("d", "job", 100, dispatch=True)).state == DISPATCHED
    assert await job.balances("job") == (0, 200)


async def test_an_id_taken_by_other_content_conflicts(job: House) -> None:
    await job.reserve("c", "job", 100)
    for other in ({"cost": 101}, {"is_conclusion": True}, {"budget_id": "request"}):
        error = await refused(job.reserve("c", **{"budget_id": "job", "cost": 100, **other}))  # type: ignore[arg-type]
        assert error.reason is ErrorReason.BUDGET_CONFLICT
    await job.settle("c", 1)
    assert (await refused(job.settle("c", 2))).reason is ErrorReason.CHARGE_STATE


async def test_a_charge_that_has_ended_cannot_be_taken_up_again(job: House) -> None:
    await job.reserve("released", "job", 100)
    await job.release("released")
    await job.reserve("settled", "job", 100)
    await job.settle("settled", 1)
    for charge_id in ("released", "settled"):
        for again in (job.reserve(charge_id, "job", 100), job.dispatch(charge_id), job.renew(charge_id, 10)):
            assert (await refused(again)).reason is ErrorReason.CHARGE_STATE
    assert (await refused(job.settle("released", 5))).reason is ErrorReason.CHARGE_STATE
    assert (await refused(job.release("settled"))).reason is ErrorReason.CHARGE_STATE
    assert await job.balances("job") == (1, 0)


async def test_a_dispatched_call_cannot_be_released(job: House) -> None:
    await job.reserve("c", "job", 100, dispatch=True)
    assert (await refused(job.release("c"))).reason is ErrorReason.CHARGE_STATE


async def test_a_release_that_comes_before_its_reservation_makes_that_fail(job: House) -> None:
    released = await job.release("c")
    assert (released.state, released.budget_id) == (RELEASED, "")
    assert (await refused(job.reserve("c", "job", 100))).reason is ErrorReason.CHARGE_STATE
    assert (await refused(job.settle("c", 1))).reason is ErrorReason.CHARGE_STATE
    assert await job.balances("job") == (0, 0)


async def test_an_unknown_outcome_is_charged_in_full_until_the_usage_is_known(job: House) -> None:
    await job.reserve("c", "job", 100, dispatch=True)
    for _ in range(2):
        charged = await job.settle("c")
        assert (charged.state, charged.cost.pico_usd, charged.HasField("usage")) == (CHARGED_IN_FULL, 100, False)
    assert await job.balances("request") == (100, 0)
    for _ in range(2):
        assert (await job.settle("c", 40)).cost.pico_usd == 40
    budget = await job.budget("request")
    assert (budget.spent.pico_usd, budget.tokens.input_tokens, budget.charge_count) == (40, 40, 1)
    assert await job.verify() == []


async def test_a_lease_that_ends_before_dispatch_is_released(job: House, clock: ManualClock) -> None:
    await job.reserve("swept", "job", 100, lease=10)
    await job.reserve("noticed", "job", 100, lease=10)
    clock.pass_seconds(9.9)
    assert await job.service.keeper.sweep() == 0
    clock.pass_seconds(0.1)
    assert (await refused(job.dispatch("noticed"))).reason is ErrorReason.CHARGE_STATE
    assert await job.service.keeper.sweep() == 1
    assert await job.balances("request") == (0, 0)
    assert (await job.release("swept")).state == EXPIRED
    assert await job.verify() == []


async def test_what_was_billed_after_an_expiry_is_recorded_and_flagged(job: House, clock: ManualClock) -> None:
    """The dispatch was lost, the call was not."""
    await job.reserve("used", "job", 100, lease=10)
    await job.reserve("unknown", "job", 100, lease=10)
    clock.pass_seconds(10)
    assert await job.service.keeper.sweep() == 2
    for _ in range(2):
        settled = await job.settle("used", 40)
        assert (settled.state, settled.cost.pico_usd, settled.over_reserved) == (SETTLED, 40, True)
    charged = await job.settle("unknown")
    assert (charged.state, charged.cost.pico_usd, charged.over_reserved) == (CHARGED_IN_FULL, 100, True)
    assert (await job.settle("unknown", 30)).over_reserved
    assert await job.balances("request") == (70, 0)
    assert (await job.budget("request")).charge_count == 2
    last = (await job.entries("job"))[-1]
    assert (last.cause, last.spent_delta_pico_usd) == (budget_pb2.LedgerEntry.CAUSE_CORRECT, -70)
    assert await job.verify() == []


async def test_a_lease_that_ends_after_dispatch_is_charged_and_a_late_settle_corrects_it(
    job: House, clock: ManualClock
) -> None:
    await job.reserve("swept", "job", 100, lease=10, dispatch=True)
    await job.reserve("late", "job", 100, lease=10, dispatch=True)
    clock.pass_seconds(10)
    assert (await job.settle("late", 30)).state == SETTLED
    assert await job.service.keeper.sweep() == 1
    assert await job.balances("request") == (130, 0)
    causes = [entry.cause for entry in await job.entries("job") if entry.charge_id == "swept"]
    assert causes == [budget_pb2.LedgerEntry.CAUSE_RESERVE, budget_pb2.LedgerEntry.CAUSE_CHARGE_IN_FULL]
    assert (await job.settle("swept", 25)).state == SETTLED
    assert await job.balances("request") == (55, 0)
    assert await job.verify() == []


async def test_a_renewed_lease_holds_on(job: House, clock: ManualClock) -> None:
    await job.reserve("c", "job", 100, lease=10, dispatch=True)
    clock.pass_seconds(9)
    await job.renew("c", 10)
    clock.pass_seconds(9)
    assert await job.service.keeper.sweep() == 0
    clock.pass_seconds(1)
    assert (await refused(job.renew("c", 10))).reason is ErrorReason.CHARGE_STATE
    assert await job.balances("job") == (100, 0)


async def test_usage_above_the_hold_is_recorded_and_flagged(job: House) -> None:
    await job.reserve("c", "job", 100, dispatch=True)
    settled = await job.settle("c", 700)
    assert (settled.cost.pico_usd, settled.over_reserved) == (700, True)
    budget = await job.budget("job")
    assert (budget.spent.pico_usd, budget.available.pico_usd) == (700, -200)
    assert (await refused(job.reserve("d", "job", 2))).reason is ErrorReason.BUDGET_EXCEEDED
    assert await job.verify() == []


async def test_absurd_usage_is_refused_and_the_hold_stays(job: House) -> None:
    await job.create("dear", 10**18, parent_id="request")
    await job.reserve("c", "job", 100, dispatch=True)
    assert (await refused(job.settle("c", -1))).violations[0].field == "usage.input_tokens"
    assert (await refused(job.settle("c", 10**13))).reason is ErrorReason.INVALID_ARGUMENT
    assert await job.balances("job") == (0, 100)


async def test_a_sum_beyond_int64_is_refused(house: House) -> None:
    await house.create("request", 2**63 - 1)
    await house.adjust("tenant/acme/2026-11-23", 2**63 - 1)
    for charge_id in ("c", "d"):
        await house.reserve(charge_id, "request", 2, model_id="dear", dispatch=True)
    assert (await refused(house.settle("c", output_tokens=10**12))).reason is ErrorReason.AMOUNT_OVERFLOW
    await house.settle("c", output_tokens=10**11)
    assert (await refused(house.settle("d", output_tokens=10**11))).reason is ErrorReason.AMOUNT_OVERFLOW
    budget = await house.budget("request")
    assert (budget.spent.pico_usd, budget.charge_count) == (75 * 10**17, 1)
    assert await house.verify() == []


async def test_a_reservation_that_makes_no_sense_is_refused(job: House) -> None:
    for fields in (
        {"max_output_tokens": 0},
        {"max_input_tokens": 0},
        {"max_input_tokens": -5},
        {"max_output_tokens": 10**8},
        {"service_tier": "gold"},
        {"lease": 901},
        {"lease": -1},
        {"max_wait": 61},
        {"min_useful_time": -1},
        {"priority": 1001},
        {"charge_id": "with space"},
    ):
        named = {"charge_id": "c", "budget_id": "job", "cost": 10, **fields}
        error = await refused(job.reserve(**named))  # type: ignore[arg-type]
        assert error.reason is ErrorReason.INVALID_ARGUMENT
        assert error.violations[0].field.startswith(next(iter(fields)))


async def test_what_is_unknown_is_not_found(job: House) -> None:
    for call in (job.dispatch("none"), job.settle("none", 1), job.renew("none", 1)):
        assert (await refused(call)).reason is ErrorReason.CHARGE_NOT_FOUND
    assert (await refused(job.budget("none"))).reason is ErrorReason.BUDGET_NOT_FOUND
    assert (await refused(job.reserve("c", "none", 10))).reason is ErrorReason.BUDGET_NOT_FOUND
    assert (await refused(job.reserve("c", "tenant/acme/2031-01-01", 10))).reason is ErrorReason.BUDGET_NOT_FOUND
    assert (await refused(job.reserve("c", "job", 10, model_id="gpt"))).reason is ErrorReason.MODEL_NOT_PRICED
    error = await refused(job.reserve("c", "job", 10, service_tier="flex"))
    assert error.reason is ErrorReason.MODEL_NOT_PRICED
