"""The scripted backend: ordered rules say what each call gets, faults included.

A script is a `Script` (or its YAML; the reference is docs/local-bedrock.md) or any function from a call to a `Reply`.
The first rule whose `when` fits and whose `times` are not used up answers. If none fits, the call fails with
ModelErrorException saying so: an answer made up by the endpoint would let a test pass that asked something else than it
meant to.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from local_bedrock.answers import Answer, Pacing, UsageOverride, limit_answer
from local_bedrock.answers import Fault as PlannedFault
from local_bedrock.calls import Json, ModelCall, OutputBlock, Text, ToolUse, compact_json
from local_bedrock.errors import ConnectionDropped, OddEvent, ServiceError, UnmodelledFrame
from local_bedrock.tokens import BYTES_PER_TOKEN, ByteTokenizer

_PLACEHOLDER = re.compile(r"\{(last_user_text|tool_results|system_text|model|template|forced_tool)\}")


class ScriptError(ValueError):
    """The script cannot be read; the message names the place."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


_Regex = Annotated[str, AfterValidator(_compiles)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class When(_Strict):
    """Every condition given must hold; none given fits every call."""

    model: str | None = Field(None, description="glob over the model id as the caller sent it")
    template: str | None = Field(None, description="glob over requestMetadata['template']")
    metadata: dict[str, str] = Field(default_factory=dict, description="globs over further requestMetadata entries")
    operation: Literal["converse", "converse-stream", "invoke", "invoke-with-response-stream"] | None = None
    text: _Regex | None = Field(None, description="regex searched in the last user text")
    system: _Regex | None = Field(None, description="regex searched in the system text")
    tool_result: _Regex | None = Field(None, description="regex searched in the tool results being answered now")
    offers: tuple[str, ...] = Field((), description="tool names that must all be offered")
    tool_choice: str | None = Field(None, description="`auto`, `any`, or the name of the tool that is forced")
    has_tool_results: bool | None = Field(None, description="whether the last message carries tool results")

    def fits(self, call: ModelCall) -> bool:
        choice = call.tool_choice
        offered = {tool.name for tool in call.offered_tools}
        globs = {**self.metadata, **({"template": self.template} if self.template is not None else {})}
        return (
            (self.model is None or fnmatch.fnmatchcase(call.model_id, self.model))
            and all(fnmatch.fnmatchcase(call.metadata.get(key, ""), glob) for key, glob in globs.items())
            and (self.operation is None or self.operation == call.operation)
            and (self.text is None or re.search(self.text, call.last_user_text, re.DOTALL) is not None)
            and (self.system is None or re.search(self.system, call.system_text, re.DOTALL) is not None)
            and (
                self.tool_result is None
                or any(re.search(self.tool_result, r.text, re.DOTALL) for r in call.tool_results)
            )
            and offered.issuperset(self.offers)
            and (self.tool_choice is None or self.tool_choice == (choice.name or choice.mode))
            and (self.has_tool_results is None or self.has_tool_results == bool(call.tool_results))
        )


class ToolCall(_Strict):
    """A tool call of the reply. `input_text` sends that text as it is, for malformed JSON."""

    name: str
    input: dict[str, Any] = Field(default_factory=dict)
    input_text: str | None = None
    id: str | None = Field(None, description="toolUseId; a new one if none is given")


class UsageCounts(_Strict):
    """Counts reported and billed in place of the real ones."""

    input_tokens: int | None = Field(None, ge=0)
    output_tokens: int | None = Field(None, ge=0)
    cache_read_tokens: int | None = Field(None, ge=0)
    cache_write_tokens: int | None = Field(None, ge=0)


class Fault(_Strict):
    """What goes wrong: exactly one of `error`, `error_frame`, `event`, `stall`, `drop` and `drop_at_byte`."""

    error: str | None = Field(None, description="modelled error by shape name, or any name with `status`")
    status: int | None = Field(None, ge=400, le=599, description="HTTP status in place of the modelled one")
    retry_after: str | None = Field(None, description="Retry-After header of an error before the response")
    error_frame: str | None = Field(None, description="code of an unmodelled error frame in the stream")
    event: dict[str, Any] | None = Field(
        None, min_length=1, max_length=1, description="a malformed event by its type, after which the stream ends"
    )
    stall: bool = Field(False, description="never another byte")
    drop: bool = Field(False, description="close the connection")
    drop_at_byte: int | None = Field(None, ge=0, description="close the connection after n bytes of the response body")
    message: str = "as the script says"
    after_chunks: int | None = Field(None, ge=0, description="deltas sent before it strikes; none: before the response")
    times: int | None = Field(None, ge=1, description="strikes only the rule's first n uses; none: always")
    billed: bool | None = Field(None, description="whether the call is billed; by default if the response had begun")

    @model_validator(mode="after")
    def _one_kind(self) -> Fault:
        kinds = [
            self.error is not None,
            self.error_frame is not None,
            self.event is not None,
            self.stall,
            self.drop,
            self.drop_at_byte is not None,
        ]
        if sum(kinds) != 1:
            raise ValueError("a fault is exactly one of error, error_frame, event, stall, drop, drop_at_byte")
        if (self.error_frame is not None or self.event is not None) and self.after_chunks is None:
            raise ValueError("an error_frame or event needs after_chunks: it only exists inside a stream")
        return self


class Reply(_Strict):
    """What a call gets.

    Text, tool names and tool inputs may use {last_user_text}, {tool_results}, {system_text}, {model}, {template} and
    {forced_tool} (the tool that toolChoice names).
    """

    text: str = ""
    tools: tuple[ToolCall, ...] = ()
    stop_reason: str | None = Field(None, description="in place of end_turn or tool_use; limits still win")
    endless: bool = Field(False, description="repeat the text until maxTokens")
    first_token_s: float = Field(0.0, ge=0)
    chunk_s: float = Field(0.0, ge=0)
    chunk_chars: int = Field(16, ge=1)
    usage: UsageCounts = UsageCounts()
    omit_usage: bool = Field(False, description="end the stream without the metadata event")
    fault: Fault | None = None


class Rule(_Strict):
    when: When = When()
    reply: Reply = Reply()
    name: str = Field("", description="shown on the invoice; `rule N` (from 1) if empty")
    times: int | None = Field(None, ge=1, description="used up after n calls; none: never")


class Script(_Strict):
    rules: tuple[Rule, ...] = ()


Decide: TypeAlias = Callable[[ModelCall], Reply | None]


class ScriptBackend:
    """Answers from one script at a time; loading another starts its counting afresh. Lives on one event loop."""

    def __init__(self, script: Script | Decide) -> None:
        self._tokenizer = ByteTokenizer()
        self.load(script)

    def load(self, script: Script | Decide) -> None:
        self._script = script
        self._uses: Counter[int] = Counter()

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [self._tokenizer.count(text) for text in texts]

    async def answer(self, call: ModelCall) -> Answer:
        name, reply, use = self._pick(call)
        return _plan(name, reply, use, call, self._tokenizer)

    async def close(self) -> None:
        pass

    def _pick(self, call: ModelCall) -> tuple[str, Reply, int]:
        """The rule's name, its reply, and which use of the rule this is (from 1)."""
        if not isinstance(self._script, Script):
            if (reply := self._script(call)) is None:
                raise _no_rule(call)
            self._uses[0] += 1
            return "function", reply, self._uses[0]
        for number, rule in enumerate(self._script.rules, start=1):
            if (rule.times is None or self._uses[number] < rule.times) and rule.when.fits(call):
                self._uses[number] += 1
                return rule.name or f"rule {number}", rule.reply, self._uses[number]
        raise _no_rule(call)


def parse_script(text: str) -> Script:
    """A script from its YAML. Raises ScriptError naming what is wrong and where."""
    try:
        return Script.model_validate(yaml.safe_load(text) or {})
    except (yaml.YAMLError, ValidationError) as error:
        raise ScriptError(f"script: {error}") from error


def load_script(source: str) -> Script | Decide:
    """The script a setting names: `package.module:function`, or the path of a YAML file. Raises ScriptError."""
    module, colon, function = source.partition(":")
    try:
        if colon and not source.endswith((".yaml", ".yml")):
            decide: Decide = getattr(importlib.import_module(module), function)
            return decide
        return parse_script(Path(source).read_text(encoding="utf-8"))
    except (OSError, ImportError, AttributeError) as error:
        raise ScriptError(f"script {source}: {error}") from error


def _no_rule(call: ModelCall) -> ServiceError:
    tools = ", ".join(tool.name for tool in call.offered_tools) or "none"
    return ServiceError(
        "ModelErrorException",
        f"No rule of the script fits this call: model {call.model_id}, template {call.template or 'unnamed'}, "
        f"tools {tools}, last user text {call.last_user_text[:80]!r}.",
    )


def _plan(name: str, reply: Reply, use: int, call: ModelCall, tokenizer: ByteTokenizer) -> Answer:
    fault = reply.fault if reply.fault and (reply.fault.times is None or use <= reply.fault.times) else None
    limited = limit_answer(_blocks(reply, call), tokenizer, call.max_tokens, call.stop_sequences, reply.stop_reason)
    return Answer(
        blocks=limited.blocks,
        stop_reason=limited.stop_reason,
        output_tokens=limited.output_tokens,
        stop_sequence=limited.stop_sequence,
        pacing=Pacing(reply.first_token_s, reply.chunk_s, reply.chunk_chars),
        fault=_planned(fault) if fault and fault.drop_at_byte is None else None,
        drop_at_byte=fault.drop_at_byte if fault else None,
        usage=UsageOverride(**reply.usage.model_dump()),
        omit_usage=reply.omit_usage,
        billed=_is_billed(fault),
        rule=name,
    )


def _blocks(reply: Reply, call: ModelCall) -> list[OutputBlock]:
    values = {
        "last_user_text": call.last_user_text,
        "tool_results": "\n".join(result.text for result in call.tool_results),
        "system_text": call.system_text,
        "model": call.model_id,
        "template": call.template,
        "forced_tool": call.tool_choice.name or "",
    }
    blocks: list[OutputBlock] = []
    if text := _fill(reply.text, values):
        if reply.endless:
            text *= call.max_tokens * BYTES_PER_TOKEN // len(text.encode()) + 1
            text += text[:BYTES_PER_TOKEN]  # one token past the limit, so that the limit is what ends it
        blocks.append(Text(text))
    for tool in reply.tools:
        given = tool.input_text if tool.input_text is not None else compact_json(_fill_json(tool.input, values))
        blocks.append(ToolUse(tool.id or f"tooluse_{uuid.uuid4().hex[:22]}", _fill(tool.name, values), given))
    return blocks


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Placeholders replaced; every other brace is plain text, and a value's own braces are not looked at again."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _fill_json(value: Json, values: Mapping[str, str]) -> Json:
    match value:
        case str():
            return _fill(value, values)
        case list():
            return [_fill_json(item, values) for item in value]
        case dict():
            return {key: _fill_json(item, values) for key, item in value.items()}
    return value


def _planned(fault: Fault) -> PlannedFault:
    if fault.error is not None:
        error = ServiceError(fault.error, fault.message, status=fault.status, retry_after=fault.retry_after)
        return PlannedFault(error, fault.after_chunks)
    if fault.error_frame is not None:
        return PlannedFault(UnmodelledFrame(fault.error_frame, fault.message), fault.after_chunks)
    if fault.event is not None:
        [(event_type, body)] = fault.event.items()
        return PlannedFault(OddEvent(event_type, body), fault.after_chunks)
    return PlannedFault(ConnectionDropped() if fault.drop else None, fault.after_chunks)


def _is_billed(fault: Fault | None) -> bool:
    """An error answered before the response costs nothing; all else does, for Bedrock has done the work."""
    if fault is None:
        return True
    return fault.billed if fault.billed is not None else fault.error is None or fault.after_chunks is not None
