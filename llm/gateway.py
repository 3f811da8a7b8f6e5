"""One model call, repeated and passed on to other models within its time; every try is paid for on its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from llm.attempt import CallParts, PaidAttempt
from llm.bedrock import BedrockClient
from llm.bedrock_errors import Kind, ModelCallError
from llm.calls import CallFailure, Listener, ModelCall, NoModel, Throttled, Turn
from llm.catalogue import Model
from llm.metering import Meter
from llm.settings import LlmSettings
from llm.settling import Settler
from llm.slots import Slots
from svc_common.times import seconds_until

# What the endpoint called too long is offered again with this part of the input that was bound to be too much.
_SHRINK = 0.5


class Gateway:
    """Built once per process, on its event loop. `jitter` picks a pause between two bounds."""

    def __init__(
        self,
        settings: LlmSettings,
        bedrock: BedrockClient,
        meter: Meter,
        *,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings = settings
        self._parts = CallParts(settings, bedrock, meter, Settler(meter, settings.settling_seconds))
        self._jitter = jitter
        self._slots: dict[str, Slots] = {}
        self._passed_over_until: dict[str, float] = {}

    async def close(self, seconds: float) -> None:
        """Ends running calls and waits, for so many seconds at most, until what they used is settled."""
        await self._parts.bedrock.close()
        await self._parts.settler.close(seconds)

    async def call(self, call: ModelCall, listener: Listener) -> Turn:
        """Makes the call. Raises CallFailure; CancelledError when cancelled, with the connection to the model closed."""
        turns: list[Turn] = []
        try:
            return await self._call_models(call, listener, turns)
        except CallFailure as failure:
            failure.partial = max((turn for turn in turns if turn.text), key=lambda turn: len(turn.text), default=None)
            raise

    async def _call_models(self, call: ModelCall, listener: Listener, turns: list[Turn]) -> Turn:
        """Tries the models in order. Puts into `turns` what each try has said."""
        failure: ModelCallError | None = None
        previous = ""
        models = self._usable(call.models)
        for model in models:
            if failure is not None:
                await listener.on_warning(f"{model.id} takes over from {previous}: {failure.message}")
            previous = model.id
            try:
                return await self._call_model(model, call, listener, turns, is_last=model is models[-1])
            except ModelCallError as error:
                failure = error
                self._pass_over(model, error)
                if not error.policy.fallback:
                    break
        is_throttled = failure is not None and failure.policy.rest
        words = f"no model answered; the last, {previous}: {failure}"
        raise (Throttled if is_throttled else NoModel)(words) from failure

    def _pass_over(self, model: Model, error: ModelCallError) -> None:
        """Has calls go to other models for a while, when this one will not answer them either."""
        settings, policy = self._settings, error.policy
        seconds = settings.unusable_seconds if policy.shun else settings.backoff_max_seconds if policy.rest else 0.0
        if seconds:
            self._passed_over_until[model.id] = asyncio.get_running_loop().time() + seconds

    def _usable(self, models: Sequence[Model]) -> Sequence[Model]:
        """Those that have not shown of late that they cannot be used; all if that leaves none."""
        time = asyncio.get_running_loop().time()
        return [model for model in models if self._passed_over_until.get(model.id, 0.0) <= time] or models

    async def _call_model(
        self, model: Model, call: ModelCall, listener: Listener, turns: list[Turn], *, is_last: bool
    ) -> Turn:
        """Tries one model until it answers, its tries are used up, or another try is pointless."""
        room: int | None = None
        failures = 0
        while True:
            prepared = call.prepare(model, max_input_tokens=room)
            slots = self._slots.setdefault(model.id, Slots(self._settings.concurrent_calls_per_model))
            attempt = PaidAttempt(self._parts, slots, model, call, listener, prepared)
            try:
                return await attempt.run()
            except ModelCallError as error:
                failures += 1
                if failures >= self._settings.attempts_per_model:
                    raise
                if error.kind is Kind.TOO_LONG:
                    room = int(min(prepared.input_bound, model.context_window) * _SHRINK)
                    continue
                pause = pause_before_retry(failures, error.retry_after, self._settings, self._jitter)
                # Another model answers sooner than one that asks for a long pause.
                patience = seconds_until(call.deadline) if is_last else self._settings.backoff_max_seconds
                if not error.policy.retry or pause > min(patience, seconds_until(call.deadline)):
                    raise
            finally:
                turns.append(attempt.turn)
            await asyncio.sleep(pause)


def pause_before_retry(
    failures: int, hint: float | None, settings: LlmSettings, jitter: Callable[[float, float], float]
) -> float:
    """Seconds: the hint, which many callers were given at once, and a random part of a bound that doubles with each failure."""
    bound = min(settings.backoff_seconds * 2 ** (failures - 1), settings.backoff_max_seconds)
    return (hint or 0.0) + jitter(0.0, bound)
