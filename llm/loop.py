"""One instance from question to result: ask the model, run the tools it calls, conclude in time and within the money."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llm import audit, notices
from llm.audit_trail import AuditTrail
from llm.calls import Attempt, CallFailure, MeterAway, ModelCall, OutOfMoney, OutOfTime, Prepared, Throttled
from llm.catalogue import Catalogue, Model
from llm.conversation import Conversation, Cut
from llm.gateway import Gateway
from llm.instance import Host, InstanceResult, Task, ToolOutcome, ToolSpec, ToolUse
from llm.notices import Notices
from llm.requests import Question, build, is_tight
from llm.settings import LlmSettings
from llm.structured import RESULT_TOOL, Result, find_result
from llm.tokens import compact_json
from llm.tool_calls import judge, result_block, tool_uses, with_sound_calls
from svc_common import deadline
from svc_common.endings import EndReason
from svc_common.times import MICROS, now, seconds_until
from svc_common.tokens import TokenUsage

# Turns in a row of which no call could be run: the model is not getting anywhere.
_MAX_FRUITLESS = 2
_MAX_REPAIRS = 1
# A model that after a round of tools has less time than this to begin its turn is asked to conclude at once.
_LEAST_ASKING = MICROS // 2
_CUT_MARK = "\n[... cut: the output limit was reached ...]"

_HOW_TO_GET: Mapping[EndReason, str] = {
    EndReason.TIMEOUT: "the time limit cut the work short: ask again with more time, or a narrower question",
    EndReason.BUDGET_EXCEEDED: "the cost limit cut the work short: ask again with a higher limit, or a narrower question",
    EndReason.LLM_ERROR: "the model failed before it was done: ask again",
    EndReason.INTERNAL_ERROR: "a service was away before the work was done: ask again",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What all instances of a process share."""

    settings: LlmSettings
    catalogue: Catalogue
    texts: Notices
    gateway: Gateway


class InstanceLoop:
    """One run of one instance; `run` is called once. It is also the listener of its model calls."""

    def __init__(
        self, parts: Parts, task: Task, host: Host, conversation: Conversation | None, trail: AuditTrail
    ) -> None:
        self._parts = parts
        self._task = task
        self._host = host
        self._trail = trail
        self._talk = conversation or Conversation()
        self._models: Sequence[Model] = parts.catalogue.models_for(task.role)
        settings = parts.settings
        self._last_deadline = task.deadline - int(settings.return_margin_seconds * MICROS)
        self._deadline = self._last_deadline - _conclusion_time(settings, self._last_deadline - now())
        self._heard: list[str] = []
        self._is_void = False
        self._cut_text = ""
        self._warnings: set[str] = set()

    async def run(self) -> InstanceResult:
        if not self._talk.messages:
            self._talk.add_user([{"text": piece} for piece in self._task.template.render(self._task.values)])
        while True:
            ended = await (self._react() if self._talk.unanswered else self._ask())
            if ended is not None:
                await self._leave_as_heard(ended)
                return ended

    # -- asking the model --

    async def _ask(self) -> InstanceResult | None:
        """Adds the model's next turn. Returns a result when there can be none."""
        self._talk.conclusion = self._talk.conclusion or self._limit_reached()
        await self._take_back_text()
        try:
            turn = await self._parts.gateway.call(self._model_call(), self)
        except CallFailure as failure:
            if failure.partial is not None:
                self._cut_text = max(self._cut_text, failure.partial.text, key=len)
            return self._meet(failure)
        self._talk.tally = self._talk.tally.with_answer(turn.model_id)
        self._talk.stop_reason = turn.stop_reason
        if not turn.blocks:
            return self._repair(notices.ASK_FOR_ANSWER)
        self._talk.add_assistant(with_sound_calls(turn.blocks, self._talk.messages))
        await self._host.on_turn(self._talk)
        return None

    def _meet(self, failure: CallFailure) -> InstanceResult | None:
        """Has the next call conclude, if that may succeed where this one failed; else ends the instance with what it has."""
        match failure:
            case OutOfTime():
                return self._conclude_or_end(Cut(EndReason.TIMEOUT, failure.message))
            case OutOfMoney():
                return self._conclude_or_end(Cut(EndReason.BUDGET_EXCEEDED, failure.message))
            case MeterAway():
                return self._end(self._cut_text, Cut(EndReason.INTERNAL_ERROR, failure.message))
            case Throttled() if self._talk.tally.rounds:
                return self._conclude_or_end(Cut(EndReason.LLM_ERROR, failure.message))
        return self._end(self._cut_text, Cut(EndReason.LLM_ERROR, failure.message))

    def _limit_reached(self) -> Cut | None:
        tally = self._talk.tally
        if now() >= self._deadline:
            return Cut(EndReason.TIMEOUT, "the time is nearly over")
        if not self._offers_tools:
            return None
        if tally.rounds >= self._task.max_rounds:
            return Cut(EndReason.NONE, f"all {self._task.max_rounds} rounds of tool calls are used up")
        if tally.fruitless_turns >= _MAX_FRUITLESS:
            return Cut(EndReason.NONE, "the last tool calls brought nothing new")
        if tally.rounds and is_tight(self._question(), self._models[0]):
            return Cut(EndReason.NONE, "the context window is full")
        return None

    def _conclude_or_end(self, cut: Cut) -> InstanceResult | None:
        """Has the next call conclude; ends the instance if this one was meant to, or there is no time for it."""
        concluding = self._talk.conclusion
        if concluding is None and now() < self._last_deadline:
            self._talk.conclusion = cut
            return None
        is_first = concluding is not None and concluding.reason is not EndReason.NONE
        return self._end(self._cut_text, concluding if is_first else cut)

    @property
    def _offers_tools(self) -> bool:
        return bool(self._task.tools) and self._task.max_rounds > 0

    def _model_call(self) -> ModelCall:
        question = self._question()

        def prepare(
            model: Model, *, max_input_tokens: int | None = None, max_output_tokens: int | None = None
        ) -> Prepared:
            return build(question, model, max_input_tokens=max_input_tokens, max_output_tokens=max_output_tokens)

        return ModelCall(
            instance_id=self._task.instance_id,
            budget_id=self._task.budget_id,
            models=self._models,
            prepare=prepare,
            deadline=self._last_deadline if self._talk.conclusion else self._deadline,
            last_deadline=self._last_deadline,
            is_conclusion=self._talk.conclusion is not None,
            priority=self._task.priority,
        )

    def _question(self) -> Question:
        task, texts, concludes = self._task, self._parts.texts, self._talk.conclusion is not None
        schema = task.response_schema
        result_tool = () if schema is None else (ToolSpec(RESULT_TOOL, texts.text(notices.RESULT_TOOL), schema),)
        tools = (*(task.tools if self._offers_tools and not concludes else ()), *result_tool)
        must_call = None if schema is None else RESULT_TOOL if len(tools) == 1 else ""
        limit = task.max_output_tokens
        spoken = Conversation(list(self._talk.messages))
        if self._talk.conclusion:
            occasion = notices.CONCLUDE if schema is None else notices.CONCLUDE_WITH_RESULT
            words = texts.text(occasion, reason=self._talk.conclusion.words)
            last = spoken.messages[-1]
            spoken.messages[-1] = {**last, "content": [*last["content"], {"text": words}]}
            limit = min(limit, self._parts.settings.conclusion_max_tokens)
        return Question(
            system=task.template.system,
            messages=spoken.messages,
            tools=tools,
            must_call=must_call,
            schema_text="" if schema is None else texts.text(notices.RESULT_SCHEMA, schema=compact_json(schema)),
            max_output_tokens=limit,
            is_last=concludes,
            metadata={
                "request_id": task.request_id,
                "job_id": task.instance_id,
                "template": task.template.name,
                "role": task.role,
            },
        )

    # -- reacting to its turn --

    async def _react(self) -> InstanceResult | None:
        """Runs the tools that the last turn calls, or takes it as the result; None when the model is to be asked again."""
        blocks = self._talk.unanswered
        schema = self._task.response_schema
        if schema is not None and (result := find_result(blocks, schema)):
            return self._take_result(result)
        uses = tool_uses(blocks)
        if uses and not self._talk.conclusion:
            await self._run_tools(uses)
            return None
        text = "".join(block.get("text", "") for block in blocks)
        if schema is not None or not text:
            occasion = notices.ASK_FOR_RESULT if schema is not None else notices.ASK_FOR_ANSWER
            return self._repair(occasion)
        return self._end(text, self._talk.conclusion)

    async def _run_tools(self, uses: Sequence[ToolUse]) -> None:
        task, talk, settings = self._task, self._talk, self._parts.settings
        offered = task.tools if self._offers_tools else ()
        verdict = judge(talk.messages, offered, self._parts.texts, limit=settings.tool_calls_per_turn)
        outcomes = dict(verdict.refused)
        notice_ids = set(outcomes)
        if verdict.to_run:
            await self._take_back_text()
            thought = "".join(block.get("text", "") for block in talk.unanswered)
            round = talk.tally.rounds + 1
            try:
                async with asyncio.timeout(seconds_until(self._deadline)) as limit:
                    with deadline.scope(self._deadline):
                        ran = await self._host.run_tools(round, thought, verdict.to_run)
                outcomes |= {use.id: outcome for use, outcome in zip(verdict.to_run, ran, strict=True)}
            except TimeoutError:
                if not limit.expired():
                    raise
                late = ToolOutcome(self._parts.texts.text(notices.OUT_OF_TIME), is_error=True)
                outcomes |= {use.id: late for use in verdict.to_run}
                notice_ids |= {use.id for use in verdict.to_run}
            if now() > self._deadline - _LEAST_ASKING:
                self._talk.conclusion = Cut(EndReason.TIMEOUT, "the time for tool calls is over")
            talk.tally = replace(talk.tally, rounds=round, fruitless_turns=0)
        else:
            talk.tally = replace(talk.tally, fruitless_turns=talk.tally.fruitless_turns + 1)
        talk.add_user([result_block(use, outcomes[use.id], is_notice=use.id in notice_ids) for use in uses])
        await self._host.on_turn(talk)

    def _take_result(self, result: Result) -> InstanceResult | None:
        if not result.problems:
            return self._end("", self._talk.conclusion, output=result.output)
        self._cut_text = result.raw
        if self._talk.tally.repairs >= _MAX_REPAIRS:
            words = f"the result stayed invalid: {'; '.join(result.problems)}"
            return self._end(result.raw, Cut(EndReason.LLM_ERROR, words))
        return self._repair(notices.REPAIR, problems="; ".join(result.problems))

    def _repair(self, occasion: str, **values: str) -> InstanceResult | None:
        """Asks once more for what is missing or wrong; ends the instance when it was asked before."""
        talk = self._talk
        if talk.tally.repairs >= _MAX_REPAIRS:
            return self._end(self._cut_text, Cut(EndReason.LLM_ERROR, "the model gave no usable answer"))
        talk.tally = replace(talk.tally, repairs=talk.tally.repairs + 1)
        words = self._parts.texts.text(occasion, **values)
        answered = [
            result_block(use, ToolOutcome(words, is_error=True), is_notice=True) for use in tool_uses(talk.unanswered)
        ]
        talk.add_user(answered or [{"text": words}])
        return None

    # -- the end --

    def _end(self, text: str, cut: Cut | None, output: Mapping[str, object] | None = None) -> InstanceResult:
        tally = self._talk.tally
        is_truncated = output is None and self._talk.stop_reason == "max_tokens" and bool(text)
        reason = cut.reason if cut else EndReason.NONE
        message = cut.words if cut and reason is not EndReason.NONE else ""
        missing = [_HOW_TO_GET[reason]] if reason is not EndReason.NONE else []
        if is_truncated:
            text += _CUT_MARK
            missing.append("the end of the output: the output limit cut it; ask for less at a time")
            reason = reason or EndReason.LLM_ERROR
            message = message or "the output limit cut the answer"
        if reason is EndReason.NONE and self._talk.stop_reason in ("content_filtered", "guardrail_intervened"):
            reason, message = EndReason.LLM_ERROR, "a content filter held the answer back"
            missing.append("what the content filter held back: ask in other words")
        return InstanceResult(
            text=text,
            output=output,
            is_partial=reason is not EndReason.NONE,
            reason=reason,
            message=message,
            missing=missing,
            usage=tally.usage,
            cost=tally.cost,
            model_ids=tally.model_ids,
            rounds=tally.rounds,
            model_calls=tally.model_calls,
            is_truncated=is_truncated,
        )

    # -- what the gateway says while it calls (see `llm.calls.Listener`) --

    async def on_text(self, text: str) -> None:
        if self._is_void:
            await self._take_back_text()
        self._heard.append(text)
        await self._host.on_text(text)

    async def on_warning(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            await self._host.on_warning(message)

    def on_attempt(self, attempt: Attempt) -> None:
        self._is_void = True  # until the next question this text counts; should another try speak, it does not
        self._talk.tally = self._talk.tally.with_call(attempt.usage or TokenUsage(), attempt.cost)
        with_content = self._parts.settings.audit_content
        self._trail.add(lambda: audit.model_call_record(self._task, attempt, with_content=with_content))

    async def _take_back_text(self) -> None:
        """What was said so far turns out not to be the answer."""
        self._is_void = False
        if self._heard:
            self._heard = []
            await self._host.on_restart()

    async def _leave_as_heard(self, result: InstanceResult) -> None:
        """Has the host hear what the result says, should it have heard something else last: a try that was not the best."""
        said = result.text.removesuffix(_CUT_MARK)
        if result.output is None and self._heard and "".join(self._heard).strip() != said.strip():
            await self._take_back_text()
            if said:
                await self._host.on_text(said)


def _conclusion_time(settings: LlmSettings, total: int) -> int:
    """Microseconds kept for the conclusion out of `total`: a share within bounds, and never more than half."""
    share = max(settings.conclusion_share * total, settings.conclusion_seconds_min * MICROS)
    return int(max(0, min(share, settings.conclusion_seconds_max * MICROS, total / 2)))
