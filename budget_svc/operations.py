"""What can be asked of the ledger: each operation is data, checked in form, ready to be applied to a `Book`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from budget_svc.budgets import Ask, Budget, NewBudget
from budget_svc.charges import Charge
from budget_svc.prices import Price
from svc_common.errors import ServiceError
from svc_common.tokens import TokenUsage

R = TypeVar("R", covariant=True)


class Asks(Generic[R]):
    """An operation that gives an `R`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class CreateBudgets(Asks[list[Budget]]):
    budgets: tuple[NewBudget, ...]


@dataclass(frozen=True, slots=True)
class AdjustBudget(Asks[Budget]):
    """`conclusion_reserve` None keeps the one it has, cut to the new limit."""

    budget_id: str
    limit: int
    conclusion_reserve: int | None = None


@dataclass(frozen=True, slots=True)
class Reserve(Asks[Charge]):
    """`lease` is in microseconds, from the time it is granted. `yields_to` are levels where others wait for their turn."""

    charge_id: str
    budget_id: str
    model_id: str
    tier: str
    price: Price
    max_input_tokens: int
    max_output_tokens: int
    lease: int
    is_conclusion: bool = False
    dispatch: bool = False
    min_useful_time: int = 0
    yields_to: frozenset[str] = field(default_factory=frozenset)

    @property
    def ask(self) -> Ask:
        return Ask(
            self.price.worst_case(self.max_input_tokens, self.max_output_tokens),
            self.max_input_tokens + self.max_output_tokens,
            self.is_conclusion,
            self.min_useful_time,
        )


@dataclass(frozen=True, slots=True)
class ReserveInTurn(Asks[list[Charge | ServiceError]]):
    """Reservations that waited in line: one that still has to wait makes those behind it wait at the same level."""

    reserves: tuple[Reserve, ...]


@dataclass(frozen=True, slots=True)
class Dispatch(Asks[Charge]):
    charge_id: str


@dataclass(frozen=True, slots=True)
class Settle(Asks[Charge]):
    charge_id: str
    usage: TokenUsage | None


@dataclass(frozen=True, slots=True)
class Release(Asks[Charge]):
    charge_id: str


@dataclass(frozen=True, slots=True)
class Renew(Asks[Charge]):
    charge_id: str
    lease: int


@dataclass(frozen=True, slots=True)
class Expire(Asks[Charge]):
    """Ends the lease of a charge if its time has come."""

    charge_id: str


Operation: TypeAlias = (
    CreateBudgets | AdjustBudget | Reserve | ReserveInTurn | Dispatch | Settle | Release | Renew | Expire
)
