"""Paying for model calls: what the gateway asks of a meter, and the meter that asks budget_svc."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from dbp.budget.v1 import budget_pb2, budget_pb2_grpc

from svc_common.channel import call
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import duration_from_seconds
from svc_common.tokens import TokenUsage, to_token_usage

_DENIALS = frozenset(
    {
        ErrorReason.BUDGET_EXCEEDED,
        ErrorReason.TOKEN_QUOTA_EXCEEDED,
        ErrorReason.BUDGET_HELD,
        ErrorReason.MODEL_RATE_EXCEEDED,
        ErrorReason.MODEL_NOT_PRICED,
        ErrorReason.TIME_BUDGET_EXCEEDED,
    }
)
_RPC_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """The worst case of one attempt at a model call."""

    charge_id: str
    budget_id: str
    model_id: str
    max_input_tokens: int
    max_output_tokens: int
    is_conclusion: bool
    priority: int
    max_wait: float
    """Seconds to wait in line for what others hold."""
    lease: float
    """Seconds after which a charge that nobody renews or settles is charged in full."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Pico-USD per token; `input` is the highest price that a prompt token can have."""

    input: int
    output: int


class Denied(Exception):
    """A reservation that was refused. `available` is the room left in pico-USD where the refusal says so."""

    def __init__(self, reason: ErrorReason, message: str, *, available: int | None, retry_after: float | None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.available = available
        self.retry_after = retry_after


class Meter(Protocol):
    """All methods are safe to repeat, and raise ServiceError when the keeper of budgets is away or the call is wrong."""

    async def reserve(self, reservation: Reservation) -> int:
        """Holds the worst case, counted from now on as sent. Returns the pico-USD held. Raises Denied."""
        ...

    async def settle(self, charge_id: str, usage: TokenUsage | None) -> int:
        """Charges what the call used, or all that is held when that is unknown. Returns the pico-USD charged."""
        ...

    async def abandon(self, charge_id: str) -> None:
        """Gives back a charge whose reservation may or may not have arrived and whose call was never sent."""
        ...

    async def renew(self, charge_id: str, lease: float) -> None:
        """Extends the lease of a charge to `lease` seconds from now."""
        ...

    async def prices(self, model_id: str) -> Prices:
        """Raises Denied when the model has no price."""
        ...


class BudgetMeter:
    """The meter over budget_svc.

    `patience` is how many seconds a service that is away is waited for before a call; what a call has left behind is settled, or
    given back, if it can be until the deadline at hand.
    """

    def __init__(self, stub: budget_pb2_grpc.BudgetServiceAsyncStub, *, patience: float) -> None:
        self._stub = stub
        self._patience = patience
        self._prices: dict[str, Prices] = {}

    async def reserve(self, reservation: Reservation) -> int:
        request = budget_pb2.ReserveChargeRequest(
            charge_id=reservation.charge_id,
            budget_id=reservation.budget_id,
            model_id=reservation.model_id,
            max_input_tokens=reservation.max_input_tokens,
            max_output_tokens=reservation.max_output_tokens,
            is_conclusion=reservation.is_conclusion,
            dispatch=True,
            max_wait=duration_from_seconds(reservation.max_wait),
            priority=reservation.priority,
            lease=duration_from_seconds(reservation.lease),
        )
        timeout = reservation.max_wait + _RPC_SECONDS
        try:
            response = await call(self._stub.ReserveCharge, request, timeout=timeout, patience=self._patience)
        except ServiceError as error:
            if denied := _denied(error):
                raise denied from error
            raise
        return response.charge.reserved.pico_usd

    async def settle(self, charge_id: str, usage: TokenUsage | None) -> int:
        request = budget_pb2.SettleChargeRequest(charge_id=charge_id)
        if usage is not None:
            request.usage.CopyFrom(to_token_usage(usage))
        response = await call(self._stub.SettleCharge, request, timeout=_RPC_SECONDS, patience=math.inf)
        return response.charge.cost.pico_usd

    async def abandon(self, charge_id: str) -> None:
        try:
            request = budget_pb2.ReleaseChargeRequest(charge_id=charge_id)
            await call(self._stub.ReleaseCharge, request, timeout=_RPC_SECONDS, patience=math.inf)
        except ServiceError as error:
            if error.reason is not ErrorReason.CHARGE_STATE:
                raise
            await self.settle(charge_id, TokenUsage())  # it had arrived, and counts as sent

    async def renew(self, charge_id: str, lease: float) -> None:
        request = budget_pb2.RenewChargeRequest(charge_id=charge_id, lease=duration_from_seconds(lease))
        await call(self._stub.RenewCharge, request, timeout=_RPC_SECONDS, patience=self._patience)

    async def prices(self, model_id: str) -> Prices:
        if model_id not in self._prices:
            request = budget_pb2.EstimateChargeRequest(model_id=model_id)
            try:
                response = await call(self._stub.EstimateCharge, request, timeout=_RPC_SECONDS, patience=self._patience)
            except ServiceError as error:
                if denied := _denied(error):
                    raise denied from error
                raise
            price = response.price
            dearest = max(price.input_pico_usd, price.cache_write_pico_usd)
            self._prices[model_id] = Prices(dearest, price.output_pico_usd)
        return self._prices[model_id]


def _denied(error: ServiceError) -> Denied | None:
    if error.reason not in _DENIALS:
        return None
    available = error.metadata.get("available_pico_usd")
    return Denied(
        error.reason,
        error.message,
        available=int(available) if available is not None else None,
        retry_after=error.retry_after,
    )
