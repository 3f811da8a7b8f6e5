"""A charge: the cost of one model call, and the transitions between its states.

    (none) --reserve--> RESERVED --dispatch--> DISPATCHED --settle with usage--> SETTLED
                         |    |                   |                                 ^
                 release |    | expiry            | expiry, settle without usage    | settle with usage
                         v    v                   v                                 |
                  RELEASED   EXPIRED        CHARGED_IN_FULL ------------------------+

A settle also follows RESERVED directly (the dispatch got lost or was never sent), and EXPIRED: what was billed is recorded, though
nothing was held for it any more. Repeating a transition changes nothing.
Each function returns the charge after it and the change for the ledger, None where no balance changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from budget_svc.ledger import Cause, Change
from budget_svc.prices import Price, Rates
from svc_common.errors import ErrorReason, ServiceError
from svc_common.tokens import NO_TOKENS, TokenUsage


class ChargeState(IntEnum):
    """The numbers of `dbp.budget.v1.Charge.State`, documented there."""

    RESERVED = 1
    DISPATCHED = 2
    SETTLED = 3
    CHARGED_IN_FULL = 4
    RELEASED = 5
    EXPIRED = 6

    @property
    def is_open(self) -> bool:
        return self <= ChargeState.DISPATCHED


@dataclass(frozen=True, slots=True)
class Charge:
    """Amounts are pico-USD, times epoch microseconds. A charge released before it was reserved has no budget.

    `end_time` is when it took its present terminal state, 0 while it is open. `usage` is what it counts as used: of a charge in
    full, all that it may have used. `over_reserved` marks a cost above what was held for it.
    """

    id: str
    budget_id: str
    model_id: str
    tier: str
    price: Price
    is_conclusion: bool
    max_input_tokens: int
    max_output_tokens: int
    reserved: int
    create_time: int
    state: ChargeState
    expire_time: int
    end_time: int = 0
    cost: int = 0
    usage: TokenUsage = NO_TOKENS
    over_reserved: bool = False

    @property
    def reserved_tokens(self) -> int:
        return self.max_input_tokens + self.max_output_tokens


Step = tuple[Charge, Change | None]

_NO_PRICE = Price(Rates(0, 0, 0, 0))


def released_unseen(charge_id: str, now: int) -> Charge:
    """What stays of a release that came before its reservation, so that the late reservation fails."""
    return Charge(charge_id, "", "", "", _NO_PRICE, False, 0, 0, 0, now, ChargeState.RELEASED, now, end_time=now)


def hold(charge: Charge) -> Change:
    return Change(Cause.RESERVE, held=charge.reserved, held_tokens=charge.reserved_tokens)


def dispatch(charge: Charge) -> Step:
    if not charge.state.is_open:
        raise wrong_state(charge, "be dispatched")
    return replace(charge, state=ChargeState.DISPATCHED), None


def settle(charge: Charge, usage: TokenUsage | None, now: int) -> Step:
    """`usage` None: the outcome is unknown and the whole hold is charged. Raises AMOUNT_OVERFLOW for an absurd usage."""
    match charge.state:
        case ChargeState.RELEASED:
            raise wrong_state(charge, "be settled")
        case ChargeState.SETTLED | ChargeState.CHARGED_IN_FULL if usage is None:
            return charge, None
        case ChargeState.SETTLED if usage != charge.usage:
            raise wrong_state(charge, "be settled with other usage")
        case ChargeState.SETTLED:
            return charge, None
    if usage is None:
        return _charge_in_full(charge, now)
    return _charge(charge, ChargeState.SETTLED, charge.price.cost(usage), usage, Cause.SETTLE, now)


def _charge_in_full(charge: Charge, now: int) -> Step:
    state, usage = ChargeState.CHARGED_IN_FULL, TokenUsage(charge.max_input_tokens, charge.max_output_tokens)
    return _charge(charge, state, charge.reserved, usage, Cause.CHARGE_IN_FULL, now)


def _charge(charge: Charge, state: ChargeState, cost: int, usage: TokenUsage, cause: Cause, now: int) -> Step:
    """Puts a cost in the place of the hold or, with a correction, of what was charged or given back before."""
    is_late = charge.state is ChargeState.EXPIRED
    over_reserved = charge.over_reserved or is_late or cost > charge.reserved
    charged = replace(charge, state=state, cost=cost, usage=usage, over_reserved=over_reserved, end_time=now)
    if not charge.state.is_open:
        return charged, Change(
            Cause.CORRECT, spent=cost - charge.cost, tokens=usage - charge.usage, charges=int(is_late)
        )
    return charged, Change(
        cause,
        held=-charge.reserved,
        spent=cost,
        held_tokens=-charge.reserved_tokens,
        tokens=usage,
        charges=1,
    )


def release(charge: Charge, now: int) -> Step:
    if charge.state in (ChargeState.RELEASED, ChargeState.EXPIRED):
        return charge, None
    if charge.state is not ChargeState.RESERVED:
        raise wrong_state(charge, "be released")
    return _give_back(charge, ChargeState.RELEASED, Cause.RELEASE, now)


def _give_back(charge: Charge, state: ChargeState, cause: Cause, now: int) -> Step:
    ended = replace(charge, state=state, end_time=now)
    return ended, Change(cause, held=-charge.reserved, held_tokens=-charge.reserved_tokens)


def renew(charge: Charge, expire_time: int) -> Step:
    if not charge.state.is_open:
        raise wrong_state(charge, "be renewed")
    return replace(charge, expire_time=expire_time), None


def expire(charge: Charge, now: int) -> Step:
    """What the end of its lease does to a charge; nothing before that or once it has ended."""
    if not charge.state.is_open or now < charge.expire_time:
        return charge, None
    if charge.state is ChargeState.RESERVED:
        return _give_back(charge, ChargeState.EXPIRED, Cause.EXPIRE, now)
    return _charge_in_full(charge, now)


def wrong_state(charge: Charge, wish: str) -> ServiceError:
    return ServiceError(
        ErrorReason.CHARGE_STATE,
        f"charge {charge.id!r} is {charge.state.name} and cannot {wish}",
        metadata={"charge_id": charge.id, "state": charge.state.name},
    )
