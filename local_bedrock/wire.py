"""Converse and CountTokens requests: JSON bodies into `ModelCall`, refused the way Bedrock refuses them. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from local_bedrock.calls import (
    CachePoint,
    Json,
    Message,
    ModelCall,
    RequestBlock,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    compact_json,
)
from local_bedrock.errors import ServiceError, invalid

CACHE_TTL_SECONDS = {"5m": 300, "1h": 3600}
SERVICE_TIERS = frozenset({"default", "priority", "flex", "reserved"})

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/\s]+/\d{8}/[a-z0-9-]+/bedrock/aws4_request, ?"
    r"SignedHeaders=[a-z0-9;-]+, ?Signature=[0-9a-f]{64}"
)
_PROFILE_PREFIX = re.compile(r"^(us|us-gov|eu|apac|jp|au|ca|global)\.")
_PROFILE_ARN = re.compile(r"^arn:aws[^:]*:bedrock:[a-z0-9-]+:\d{12}:inference-profile/(?P<id>.+)$")
_MODEL_ARN = re.compile(r"^arn:aws[^:]*:bedrock:[a-z0-9-]+::foundation-model/(?P<id>.+)$")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_USE_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
_METADATA_KEY = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{1,256}")
_METADATA_VALUE = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{0,256}")
_MAX_METADATA = 16


def check_authorization(header: str | None) -> None:
    """Require a SigV4 header for service `bedrock`; any key and any signature will do. Raises ServiceError 403."""
    if header is None:
        raise ServiceError("MissingAuthenticationTokenException", "Missing Authentication Token", status=403)
    if not _AUTHORIZATION.fullmatch(header):
        raise ServiceError("IncompleteSignatureException", "Authorization header is not a SigV4 signature.", status=403)


def base_model_id(model_id: str) -> str:
    """The foundation model behind an id: inference-profile and model ARNs and region prefixes taken off."""
    arn = _PROFILE_ARN.match(model_id) or _MODEL_ARN.match(model_id)
    return _PROFILE_PREFIX.sub("", arn["id"] if arn else model_id)


def check_model(model_id: str, known: Sequence[str]) -> None:
    """Refuse an id that no glob of `known` matches."""
    base = base_model_id(model_id)
    if not any(fnmatch.fnmatchcase(base, pattern) or model_id == pattern for pattern in known):
        raise invalid("The provided model identifier is invalid.")


def check_countable(model_id: str) -> None:
    """CountTokens knows neither Nova nor inference profiles."""
    profile = _PROFILE_ARN.match(model_id) or _PROFILE_PREFIX.match(model_id)
    if profile or base_model_id(model_id).startswith("amazon."):
        raise invalid("The provided model doesn't support counting tokens.")


def parse_converse(
    body: Mapping[str, Json], *, operation: str, model_id: str, default_max_tokens: int, ends_with_user: bool = True
) -> ModelCall:
    """The call a Converse body asks for. `ends_with_user` is False only for counting. Raises ServiceError 400."""
    if "outputConfig" in body:
        raise invalid("This model doesn't support the outputConfig field. Force a tool with the schema instead.")
    inference = _dict(body.get("inferenceConfig", {}), "inferenceConfig")
    tools, choice = _tool_config(body)
    call = ModelCall(
        operation=operation,
        model_id=model_id,
        system=tuple(_system_block(b, f"system.{i}") for i, b in enumerate(_list(body.get("system", []), "system"))),
        messages=tuple(_message(m, f"messages.{i}") for i, m in enumerate(_list(body.get("messages", []), "messages"))),
        tools=tools,
        tool_choice=choice,
        max_tokens=_max_tokens(inference, default_max_tokens),
        stop_sequences=tuple(
            _str(s, "stopSequences") for s in _list(inference.get("stopSequences", []), "stopSequences")
        ),
        temperature=_unit_interval(inference, "temperature"),
        service_tier=_service_tier(body),
        metadata=parse_metadata(body["requestMetadata"]) if "requestMetadata" in body else {},
    )
    _unit_interval(inference, "topP")
    _check_conversation(call, ends_with_user)
    return call


def parse_metadata(value: Json) -> dict[str, str]:
    """The requestMetadata map, within Bedrock's limits."""
    entries = _dict(value, "requestMetadata")
    if not 1 <= len(entries) <= _MAX_METADATA:
        raise invalid(f"requestMetadata must have between 1 and {_MAX_METADATA} entries.")
    metadata = {}
    for key, entry in entries.items():
        text = _str(entry, f"requestMetadata.{key}")
        if not _METADATA_KEY.fullmatch(key) or not _METADATA_VALUE.fullmatch(text):
            raise invalid(f"requestMetadata entry {key!r} does not match the allowed characters or length.")
        metadata[key] = text
    return metadata


def _tool_config(body: Mapping[str, Json]) -> tuple[tuple[Tool | CachePoint, ...], ToolChoice]:
    auto = ToolChoice("auto")
    if "toolConfig" not in body:
        return (), auto
    config = _dict(body["toolConfig"], "toolConfig")
    tools = tuple(
        _tool(t, f"toolConfig.tools.{i}") for i, t in enumerate(_list(config.get("tools", []), "toolConfig.tools"))
    )
    names = [tool.name for tool in tools if isinstance(tool, Tool)]
    if not names:
        raise invalid("The toolConfig.tools field must contain at least one tool.")
    if len(set(names)) != len(names):
        raise invalid("The tool names in toolConfig must be unique.")
    match _dict(config.get("toolChoice", {"auto": {}}), "toolChoice"):
        case {"auto": _}:
            return tools, auto
        case {"any": _}:
            return tools, ToolChoice("any")
        case {"tool": {"name": str(name)}} if name in names:
            return tools, ToolChoice("tool", name)
        case {"tool": _}:
            raise invalid("The toolChoice names a tool that is not in toolConfig.tools.")
    raise invalid("The toolChoice must be one of auto, any and tool.")


def _tool(value: Json, where: str) -> Tool | CachePoint:
    match _dict(value, where):
        case {"cachePoint": point}:
            return _cache_point(point, where)
        case {"toolSpec": dict(spec)}:
            name = _matched(spec.get("name"), _TOOL_NAME, f"{where}.toolSpec.name")
            schema = _dict(
                _dict(spec.get("inputSchema"), f"{where}.inputSchema").get("json"), f"{where}.inputSchema.json"
            )
            if schema.get("type") != "object":
                raise invalid(
                    f"The value at {where}.toolSpec.inputSchema.json.type must be one of the following: object."
                )
            return Tool(name, _str(spec.get("description", ""), f"{where}.description"), schema)
    raise invalid(f"Unsupported tool at {where}.")


def _message(value: Json, where: str) -> Message:
    message = _dict(value, where)
    role: Literal["user", "assistant"]
    match message.get("role"):
        case "user":
            role = "user"
        case "assistant":
            role = "assistant"
        case other:
            raise invalid(f"The role at {where} must be user or assistant, not {other!r}.")
    content = _list(message.get("content"), f"{where}.content")
    if not content:
        raise invalid(f"The content field in the Message object at {where} is empty. Add a ContentBlock object to it.")
    return Message(role, tuple(_block(b, f"{where}.content.{i}") for i, b in enumerate(content)))


def _block(value: Json, where: str) -> RequestBlock:
    match _dict(value, where):
        case {"text": text}:
            return _text(text, where)
        case {"toolUse": dict(use)}:
            given = use.get("input", {})
            return ToolUse(
                _matched(use.get("toolUseId"), _TOOL_USE_ID, f"{where}.toolUse.toolUseId"),
                _matched(use.get("name"), _TOOL_NAME, f"{where}.toolUse.name"),
                compact_json(_dict(given, f"{where}.input")),
            )
        case {"toolResult": dict(result)}:
            parts = _list(result.get("content"), f"{where}.toolResult.content")
            return ToolResult(
                _str(result.get("toolUseId"), where),
                "\n".join(_result_part(part, where) for part in parts),
                result.get("status") == "error",
            )
        case {"reasoningContent": {"reasoningText": {"text": str(text)}}}:
            return Text(text)
        case {"cachePoint": point}:
            return _cache_point(point, where)
        case {**others}:
            kind = next(iter(others), "empty")
            raise invalid(f"This model doesn't support the {kind} content block at {where}.")
    raise AssertionError("unreachable: _dict returns a dict")


def _result_part(value: Json, where: str) -> str:
    match _dict(value, where):
        case {"text": str(text)}:
            return text
        case {"json": document}:
            return compact_json(document)
    raise invalid(f"This model doesn't support the toolResult content at {where}.")


def _system_block(value: Json, where: str) -> Text | CachePoint:
    match _dict(value, where):
        case {"text": text}:
            return _text(text, where)
        case {"cachePoint": point}:
            return _cache_point(point, where)
    raise invalid(f"Unsupported system block at {where}.")


def _text(value: Json, where: str) -> Text:
    text = _str(value, where)
    if not text.strip():
        raise invalid(f"The text field in the ContentBlock object at {where} is blank. Add text to the text field.")
    return Text(text)


def _cache_point(value: Json, where: str) -> CachePoint:
    point = _dict(value, where)
    ttl = CACHE_TTL_SECONDS.get(str(point.get("ttl", "5m")))
    if point.get("type") != "default" or ttl is None:
        raise invalid(f"The cachePoint at {where} must have type default and a ttl of 5m or 1h.")
    return CachePoint(ttl)


def _check_conversation(call: ModelCall, ends_with_user: bool) -> None:
    if not call.messages:
        raise invalid("A conversation must have at least one message.")
    for before, message in zip((None, *call.messages), call.messages, strict=False):
        if (before.role if before else "assistant") == message.role:
            what = "must alternate between user and assistant roles" if before else "must start with a user message"
            raise invalid(f"A conversation {what}. Try again with a conversation that does.")
    # Claude continues an answer the caller has begun; Nova refuses it.
    prefill_allowed = base_model_id(call.model_id).startswith("anthropic.")
    if ends_with_user and not prefill_allowed and call.messages[-1].role != "user":
        raise invalid(
            "The model does not support assistant message prefill; the conversation must end with a user message."
        )
    if not call.offered_tools and any(isinstance(b, ToolUse | ToolResult) for m in call.messages for b in m.content):
        raise invalid("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
    _check_tool_pairs(call.messages)


def _check_tool_pairs(messages: Sequence[Message]) -> None:
    """Every tool call is answered in the very next message, and nothing else is."""
    asked: list[str] = []
    for i, message in enumerate(messages):
        answered = [block.tool_use_id for block in message.content if isinstance(block, ToolResult)]
        if missing := [tool_use_id for tool_use_id in asked if tool_use_id not in answered]:
            raise invalid(
                f"Expected toolResult blocks at messages.{i}.content for the following Ids: {', '.join(missing)}"
            )
        if len(answered) != len(asked) or set(answered) != set(asked):
            raise invalid(
                f"The number of toolResult blocks at messages.{i}.content exceeds the number of toolUse blocks of "
                "previous turn."
            )
        asked = [block.tool_use_id for block in message.content if isinstance(block, ToolUse)]
        if len(set(asked)) != len(asked):
            raise invalid(f"The toolUse blocks at messages.{i}.content contain duplicate Ids.")


def _max_tokens(inference: Mapping[str, Json], default: int) -> int:
    value = inference.get("maxTokens", default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise invalid("The maxTokens field must be an integer of at least 1.")
    return value


def _unit_interval(inference: Mapping[str, Json], key: str) -> float | None:
    value = inference.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise invalid(f"The {key} field must be a number between 0 and 1.")
    return float(value)


def _service_tier(body: Mapping[str, Json]) -> str:
    tier = _dict(body.get("serviceTier", {"type": "default"}), "serviceTier").get("type")
    if tier not in SERVICE_TIERS:
        raise invalid(f"The serviceTier type must be one of {', '.join(sorted(SERVICE_TIERS))}.")
    return str(tier)


def _dict(value: Json, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise invalid(f"Malformed input request: {where} must be an object.")
    return value


def _list(value: Json, where: str) -> list[Json]:
    if not isinstance(value, list):
        raise invalid(f"Malformed input request: {where} must be an array.")
    return value


def _matched(value: Json, pattern: re.Pattern[str], where: str) -> str:
    text = _str(value, where)
    if not pattern.fullmatch(text):
        raise invalid(f"The value {text!r} at {where} must match {pattern.pattern}.")
    return text


def _str(value: Json, where: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"Malformed input request: {where} must be a string.")
    return value
