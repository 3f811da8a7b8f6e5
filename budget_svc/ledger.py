"""The ledger: every change of a balance as an entry that is never changed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from svc_common.tokens import NO_TOKENS, TokenUsage


class Cause(IntEnum):
    """What caused a change; the numbers of `dbp.budget.v1.LedgerEntry.Cause`, documented there."""

    RESERVE = 1
    SETTLE = 2
    RELEASE = 3
    EXPIRE = 4
    CHARGE_IN_FULL = 5
    CORRECT = 6
    ADJUST = 7
    FOLD = 8
    CREATE = 9


@dataclass(frozen=True, slots=True)
class Change:
    """What an entry adds to the balances of its budget and of every one above; to limit and conclusion reserve of its budget alone.

    Amounts are pico-USD. `charges` counts charges that ended by costing something or nothing, not released ones.
    """

    cause: Cause
    held: int = 0
    spent: int = 0
    held_tokens: int = 0
    tokens: TokenUsage = NO_TOKENS
    charges: int = 0
    limit: int = 0
    conclusion_reserve: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger. `sequence` is 0 until the store has given it one; `time` is epoch microseconds."""

    time: int
    budget_id: str
    tenant: str
    tool: str
    change: Change
    charge_id: str = ""
    model_id: str = ""
    sequence: int = 0
