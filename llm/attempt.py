"""One try at one model: reserve, wait for a slot, send, listen, settle."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from opentelemetry.trace import Span

from llm import tracing
from llm.bedrock import BedrockClient, EventStream
from llm.bedrock_errors import Kind, ModelCallError
from llm.calls import Attempt, Listener, MeterAway, ModelCall, OutOfMoney, OutOfTime, Prepared, Turn
from llm.catalogue import Model
from llm.metering import Denied, Meter, Prices, Reservation
from llm.reply import Reply
from llm.settings import LlmSettings
from llm.settling import Settler
from llm.slots import Slots
from llm.structured import RESULT_TOOL
from svc_common import telemetry
from svc_common.errors import ErrorReason, ServiceError
from svc_common.ids import new_id
from svc_common.times import now, seconds_until
from svc_common.tokens import TokenUsage

_MAX_WAIT_SECONDS = 60.0
_SETTLE_SECONDS = 2.0
_AWAY = frozenset({ErrorReason.SERVICE_UNAVAILABLE, ErrorReason.STORE_UNAVAILABLE, ErrorReason.OVERLOADED})


@dataclass(frozen=True, slots=True)
class CallParts:
    """What all calls of a process share."""

    settings: LlmSettings
    bedrock: BedrockClient
    meter: Meter
    settler: Settler


class PaidAttempt:
    """One try. `run` is called once; raises ModelCallError when the try failed and CallFailure when no other would do better."""

    def __init__(
        self, parts: CallParts, slots: Slots, model: Model, call: ModelCall, listener: Listener, prepared: Prepared
    ) -> None:
        self._settings = parts.settings
        self._bedrock = parts.bedrock
        self._meter = parts.meter
        self._settler = parts.settler
        self._slots = slots
        self._model = model
        self._call = call
        self._listener = listener
        self._prepared = prepared
        # An instance's id may have 128 characters and a charge's 160; 24 digits of an id are unique enough within an instance.
        self._charge_id = f"{call.instance_id}.{new_id()[:24]}"
        self._reply = Reply(model.thinking_tag, spoken_tool=RESULT_TOOL)
        self._start_time = now()

    async def run(self) -> Turn:
        if self._prepared.is_cut:
            await self._listener.on_warning(f"the context of {self._model.id} is full: what matters least was left out")
        try:
            async with asyncio.timeout(seconds_until(self._call.deadline)) as limit:
                return await self._send(await self._reserve(), limit)
        except TimeoutError:
            raise OutOfTime("the time was over before the model had answered") from None

    @property
    def turn(self) -> Turn:
        """What the model has said so far."""
        reply = self._reply
        return Turn(self._model.id, reply.blocks(), reply.stop_reason, reply.partial_tool_text)

    async def _reserve(self) -> int:
        """Holds the worst case; if the budget has room for a smaller call that is of use, makes the call that small."""
        try:
            try:
                return await self._hold()
            except Denied as denied:
                if denied.reason is not ErrorReason.BUDGET_EXCEEDED or denied.available is None:
                    raise
                smaller = self._affordable(denied.available, await self._meter.prices(self._model.id))
                if smaller is None:
                    raise
                self._prepared = smaller
                return await self._hold()
        except Denied as denied:
            raise _failure_of(denied) from denied
        except (ServiceError, asyncio.CancelledError) as error:
            self._settler.abandon(self._charge_id)
            if isinstance(error, ServiceError) and error.reason in _AWAY:
                raise MeterAway(f"the keeper of budgets did not answer: {error.message}") from error
            if isinstance(error, ServiceError) and error.reason is ErrorReason.DEADLINE_EXCEEDED:
                raise OutOfTime(error.message) from error
            raise

    async def _hold(self) -> int:
        return await self._meter.reserve(
            Reservation(
                charge_id=self._charge_id,
                budget_id=self._call.budget_id,
                model_id=self._model.id,
                max_input_tokens=self._prepared.input_bound,
                max_output_tokens=self._prepared.max_tokens,
                is_conclusion=self._call.is_conclusion,
                priority=self._call.priority,
                # Half of the time that is left: the call itself needs some, too.
                max_wait=min(max(0.0, seconds_until(self._call.deadline) / 2), _MAX_WAIT_SECONDS),
                lease=self._settings.charge_lease_seconds,
            )
        )

    def _affordable(self, available: int, prices: Prices) -> Prepared | None:
        """The call with a shorter answer and, if it is the conclusion, with less to read, so that it fits the money; or None."""
        useful = min(self._settings.useful_output_tokens, self._prepared.max_tokens)
        output = (available - self._prepared.input_bound * prices.input) // max(1, prices.output)
        if output >= useful:
            return self._call.prepare(self._model, max_output_tokens=output)
        if not self._call.is_conclusion:
            return None
        readable = (available - useful * prices.output) // max(1, prices.input)
        if readable <= 0:
            return None
        smaller = self._call.prepare(self._model, max_input_tokens=readable, max_output_tokens=useful)
        return smaller if smaller.input_bound <= readable else None

    async def _send(self, held: int, limit: asyncio.Timeout) -> Turn:
        outcome, message = "", ""
        usage: TokenUsage | None = None
        cost = held
        renewing = asyncio.get_running_loop().create_task(self._renew())
        stream: EventStream | None = None
        with tracing.model_span(self._model.id, self._prepared.max_tokens) as span:
            try:
                async with (
                    self._slots.taken(self._call.priority),
                    self._bedrock.converse(
                        self._prepared.arguments, streaming=self._model.streaming, priority=self._call.priority
                    ) as stream,
                ):
                    await self._listen(stream, limit)
                outcome, usage = self._reply.stop_reason, self._reply.usage
                limit.reschedule(_loop_time(self._call.last_deadline))
                cost = await self._settled(usage, held)
            except ModelCallError as error:
                outcome, message = error.kind.name.lower(), error.message
                usage = self._reply.usage if error.begun else TokenUsage()
                cost = _unsettled(usage, held)  # should the wait for the settlement be cut short
                cost = await self._settled(usage, held)
                raise
            except BaseException as error:
                if outcome:  # it was whole, and only its settlement is not waited for any longer
                    raise
                outcome, message = "out_of_time" if limit.expired() else "cancelled", type(error).__name__
                usage = self._reply.usage if stream is not None and stream.is_sent else TokenUsage()
                # No time to wait for the settlement: whoever cancels wants it over, and a deadline is near.
                self._settler.settle(self._charge_id, usage)
                cost = _unsettled(usage, held)
                raise
            finally:
                renewing.cancel()
                self._record(span, outcome, message, usage, cost)
            return self.turn

    async def _settled(self, usage: TokenUsage | None, held: int) -> int:
        """Settles and returns the cost; what was held, when it takes so long that the turn would be lost waiting for it."""
        settling = self._settler.settle(self._charge_id, usage)
        left = seconds_until(self._call.last_deadline)
        await asyncio.wait({settling}, timeout=max(0.0, min(_SETTLE_SECONDS, left / 2)))
        cost = settling.result() if settling.done() else None
        return _unsettled(usage, held) if cost is None else cost

    async def _listen(self, stream: EventStream, limit: asyncio.Timeout) -> None:
        reply, settings = self._reply, self._settings
        patience = settings.first_event_seconds
        may_be_late = False
        try:
            while not reply.is_complete:
                events = await stream.next(settings.usage_seconds if reply.stop_reason else patience)
                if not events:
                    raise ModelCallError(Kind.LOST, "the response ended in the middle", begun=True)
                patience = settings.stall_seconds
                pieces: list[str] = []
                try:
                    for event in events:
                        pieces.append(reply.feed(event))
                finally:  # what was said before a malformed event is heard, whether or not they came together
                    if may_be_late is not (reply.is_answering or bool(reply.stop_reason)):
                        may_be_late = not may_be_late
                        limit.reschedule(_loop_time(self._call.last_deadline if may_be_late else self._call.deadline))
                    if text := "".join(pieces):
                        await self._listener.on_text(text)
        except ModelCallError:
            if not reply.stop_reason:
                raise
            # The answer is whole, only its usage is lost: it is charged in full.

    async def _renew(self) -> None:
        lease = self._settings.charge_lease_seconds
        while True:
            await asyncio.sleep(lease / 3)
            with suppress(ServiceError):  # the next one may get through; if none does, the charge counts in full
                await self._meter.renew(self._charge_id, lease)

    def _record(self, span: Span, outcome: str, message: str, usage: TokenUsage | None, cost: int) -> None:
        span.set_attribute(telemetry.GEN_AI_FINISH_REASONS, [outcome])
        span.set_attribute(telemetry.COST_PICO_USD, cost)
        if usage is not None:
            span.set_attribute(telemetry.GEN_AI_INPUT_TOKENS, usage.prompt)
            span.set_attribute(telemetry.GEN_AI_OUTPUT_TOKENS, usage.output_tokens)
        self._listener.on_attempt(
            Attempt(
                charge_id=self._charge_id,
                model_id=self._model.id,
                arguments=self._prepared.arguments,
                blocks=self._reply.blocks(),
                outcome=outcome,
                message=message,
                usage=usage,
                cost=cost,
                start_time=self._start_time,
                end_time=now(),
            )
        )


def _unsettled(usage: TokenUsage | None, held: int) -> int:
    """What a charge counts as until its settlement is known."""
    return 0 if usage == TokenUsage() else held


def _loop_time(time: int) -> float:
    return asyncio.get_running_loop().time() + seconds_until(time)


def _failure_of(denied: Denied) -> Exception:
    match denied.reason:
        case ErrorReason.MODEL_RATE_EXCEEDED:
            return ModelCallError(Kind.THROTTLED, denied.message, begun=False, retry_after=denied.retry_after)
        case ErrorReason.MODEL_NOT_PRICED:
            return ModelCallError(Kind.UNPRICED, denied.message, begun=False)
        case ErrorReason.TIME_BUDGET_EXCEEDED:
            return OutOfTime(denied.message)
    return OutOfMoney(denied.message)
