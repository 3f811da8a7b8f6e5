"""A budget: its limit, its balances, and whether a charge fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from budget_svc.ledger import Change
from svc_common.errors import ErrorReason, ServiceError, invalid_field
from svc_common.money import checked, format_usd
from svc_common.tokens import NO_TOKENS, TokenUsage

THRESHOLDS = (50, 80, 100)

# What a caller is told to wait when held money is in its way: nobody knows when the others settle.
HELD_RETRY_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class NewBudget:
    """A budget as it is asked for. Without `parent_id` it goes right under the tenant's. Zero: no deadline, no quota."""

    id: str
    limit: int
    parent_id: str = ""
    tenant: str = ""
    tool: str = ""
    conclusion_reserve: int = 0
    deadline: int = 0
    token_quota: int = 0

    @property
    def terms(self) -> str:
        """Equal for equal content, so that a repeated creation is told from a conflicting one."""
        numbers = (self.limit, self.conclusion_reserve, self.deadline, self.token_quota)
        return "|".join((self.parent_id, self.tenant, self.tool, *map(str, numbers)))


def check_limit(limit: int, conclusion_reserve: int) -> None:
    if limit < 0:
        raise invalid_field("limit", "must be 0 or more")
    if not 0 <= conclusion_reserve <= limit:
        raise invalid_field("conclusion_reserve", "must be 0 or more and at most the limit")


@dataclass(slots=True)
class Budget:
    """Balances include everything below. Amounts are pico-USD, times epoch microseconds, zero for none."""

    id: str
    parent_id: str
    tenant: str
    tool: str
    terms: str
    create_time: int
    deadline: int
    token_quota: int
    limit: int
    conclusion_reserve: int
    spent: int = 0
    held: int = 0
    tokens: TokenUsage = NO_TOKENS
    held_tokens: int = 0
    charge_count: int = 0
    passed_percent: int = 0

    @property
    def available(self) -> int:
        """Room for a charge that is not a conclusion; negative when the limit was lowered or overrun."""
        return self.usable(is_conclusion=False) - self.spent - self.held

    def usable(self, *, is_conclusion: bool) -> int:
        return self.limit if is_conclusion else self.limit - self.conclusion_reserve

    def check(self, change: Change) -> None:
        """Raises AMOUNT_OVERFLOW if the change cannot be applied."""
        checked(self.spent + self.held + change.spent + change.held)

    def apply(self, change: Change) -> None:
        self.spent += change.spent
        self.held += change.held
        self.held_tokens += change.held_tokens
        self.charge_count += change.charges
        if change.tokens is not NO_TOKENS:
            self.tokens += change.tokens

    def passed_now(self) -> int:
        """The highest threshold, in percent of the limit, that spent and held have reached; 0 for none."""
        used = (self.spent + self.held) * 100
        passed = 0
        for percent in THRESHOLDS:
            if used <= 0 or used < percent * self.limit:
                break
            passed = percent
        return passed


@dataclass(frozen=True, slots=True)
class Ask:
    """What a charge needs of every budget on its path: pico-USD, tokens, and time (microseconds)."""

    amount: int
    tokens: int
    is_conclusion: bool = False
    min_useful_time: int = 0


class TransientDenial(ServiceError):
    """A denial that others' settling, or time, may lift. `level` is what was in the way: a budget's id or a model's."""

    def __init__(
        self, reason: ErrorReason, message: str, level: str, retry_after: float, metadata: dict[str, str]
    ) -> None:
        super().__init__(reason, message, retry_after=retry_after, metadata=metadata)
        self.level = level


def admit(path: Sequence[Budget], ask: Ask, now: int) -> None:
    """Raises the denial of a charge that does not fit somewhere on its path (the paying budget first, the tenant's last).

    A level that can never have the room comes before one that only lacks it now, so that nobody waits in vain.
    """
    for budget in path:
        _check_time(budget, ask, now)
    for budget in path:
        if budget.spent + ask.amount > budget.usable(is_conclusion=ask.is_conclusion):
            raise ServiceError(
                ErrorReason.BUDGET_EXCEEDED, f"{_shortage(budget, ask)} of its limit", metadata=_facts(budget, ask)
            )
        if budget.token_quota and budget.tokens.total + ask.tokens > budget.token_quota:
            raise ServiceError(
                ErrorReason.TOKEN_QUOTA_EXCEEDED,
                f"budget {budget.id!r} has {budget.token_quota - budget.tokens.total} tokens left of its quota; "
                f"the call may use {ask.tokens}",
                metadata=_facts(budget, ask),
            )
    for budget in path:
        if budget.spent + budget.held + ask.amount > budget.usable(is_conclusion=ask.is_conclusion):
            raise held_by_others(budget, ask, f"{_shortage(budget, ask)} while others hold {format_usd(budget.held)}")
        if budget.token_quota and budget.tokens.total + budget.held_tokens + ask.tokens > budget.token_quota:
            raise held_by_others(
                budget, ask, f"others hold {budget.held_tokens} tokens of the quota of budget {budget.id!r}"
            )


def held_by_others(budget: Budget, ask: Ask, message: str) -> TransientDenial:
    return TransientDenial(ErrorReason.BUDGET_HELD, message, budget.id, HELD_RETRY_SECONDS, _facts(budget, ask))


def _check_time(budget: Budget, ask: Ask, now: int) -> None:
    if budget.deadline and budget.deadline - now < max(ask.min_useful_time, 1):
        left = max(budget.deadline - now, 0) / 1e6
        raise ServiceError(
            ErrorReason.TIME_BUDGET_EXCEEDED,
            f"budget {budget.id!r} has {left:.3f} s left; the call needs {ask.min_useful_time / 1e6:.3f} s to be of use",
            metadata={"budget_id": budget.id},
        )


def _shortage(budget: Budget, ask: Ask) -> str:
    room = budget.usable(is_conclusion=ask.is_conclusion) - budget.spent - budget.held
    return f"the call may cost {format_usd(ask.amount)} USD; budget {budget.id!r} has {format_usd(room)} left"


def _facts(budget: Budget, ask: Ask) -> dict[str, str]:
    room = budget.usable(is_conclusion=ask.is_conclusion) - budget.spent - budget.held
    facts = {"budget_id": budget.id, "available_pico_usd": str(room), "required_pico_usd": str(ask.amount)}
    if budget.token_quota:
        facts["available_tokens"] = str(budget.token_quota - budget.tokens.total - budget.held_tokens)
        facts["required_tokens"] = str(ask.tokens)
    return facts
