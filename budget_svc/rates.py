"""Rates of models: how many requests and tokens a minute Bedrock lets us send to one.

Counted over a sliding minute, so that no span of sixty seconds ever holds more than the quota, in steps of a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from budget_svc.budgets import TransientDenial
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import MICROS

_WINDOW_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ModelQuota:
    """Zero is no limit. A call counts as its worst case until it is settled, as Bedrock counts it."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(slots=True)
class RateWindow:
    """What was granted of a model in each second of about the last minute: second since the epoch to (requests, tokens)."""

    model_id: str
    seconds: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def level(self) -> str:
        """What waiters wait at; no budget has such an id."""
        return f"model/{self.model_id}"

    def take(self, quota: ModelQuota, tokens: int, now: int) -> None:
        """Counts a request. Raises MODEL_RATE_EXCEEDED with the time at which it would fit, without one if it never does."""
        second = now // MICROS
        # The second a minute ago is still counted: a part of it is less than sixty seconds away.
        self.seconds = {past: taken for past, taken in self.seconds.items() if past >= second - _WINDOW_SECONDS}
        if (wait := self._wait(quota, tokens, now)) > 0:
            raise self._denial(f"the rate of model {self.model_id!r} is used up", wait / MICROS)
        requests, sum_of_tokens = self.seconds.get(second, (0, 0))
        self.seconds[second] = (requests + 1, sum_of_tokens + tokens)

    def others_wait(self) -> TransientDenial:
        return self._denial(f"others wait for the rate of model {self.model_id!r}", 1.0)

    def _denial(self, message: str, retry_after: float) -> TransientDenial:
        facts = {"model_id": self.model_id}
        return TransientDenial(ErrorReason.MODEL_RATE_EXCEEDED, message, self.level, retry_after, facts)

    def give_back(self, granted_at: int, requests: int, tokens: int) -> None:
        """Corrects what was counted for a request that was granted at that time."""
        second = granted_at // MICROS
        if second in self.seconds:
            counted_requests, counted_tokens = self.seconds[second]
            self.seconds[second] = (max(counted_requests - requests, 0), max(counted_tokens - tokens, 0))

    def _wait(self, quota: ModelQuota, tokens: int, now: int) -> int:
        """Microseconds until a call of so many tokens fits."""
        if quota.tokens_per_minute and tokens > quota.tokens_per_minute:
            raise ServiceError(
                ErrorReason.MODEL_RATE_EXCEEDED,
                f"a call of up to {tokens} tokens is above the rate of model {self.model_id!r}, "
                f"{quota.tokens_per_minute} a minute",
                metadata={"model_id": self.model_id},
            )
        requests = sum(taken for taken, _ in self.seconds.values())
        used = sum(taken for _, taken in self.seconds.values())
        wait = 0
        for second in sorted(self.seconds):
            if self._fits(quota, requests + 1, used + tokens):
                break
            requests -= self.seconds[second][0]
            used -= self.seconds[second][1]
            wait = (second + _WINDOW_SECONDS + 1) * MICROS - now
        return wait

    @staticmethod
    def _fits(quota: ModelQuota, requests: int, tokens: int) -> bool:
        return (not quota.requests_per_minute or requests <= quota.requests_per_minute) and (
            not quota.tokens_per_minute or tokens <= quota.tokens_per_minute
        )

    def encoded(self) -> str:
        return json.dumps([[second, *taken] for second, taken in self.seconds.items()], separators=(",", ":"))

    @classmethod
    def decoded(cls, model_id: str, text: str) -> RateWindow:
        return cls(model_id, {second: (requests, tokens) for second, requests, tokens in json.loads(text)})


class Quotas:
    """The quotas of the settings. `listed_id` brings the ids that name the same model together (see `PriceList`)."""

    def __init__(self, quotas: Mapping[str, ModelQuota], listed_id: Callable[[str], str]) -> None:
        self._quotas = {listed_id(model_id): quota for model_id, quota in quotas.items()}
        self._listed_id = listed_id

    def find(self, model_id: str) -> tuple[str, ModelQuota] | None:
        """The id under which the model's rate is counted and its quota, or None if it has none."""
        if not self._quotas:
            return None
        listed = self._listed_id(model_id)
        quota = self._quotas.get(listed)
        return None if quota is None else (listed, quota)
