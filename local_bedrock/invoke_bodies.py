"""InvokeModel's native bodies (Anthropic Messages, Amazon Nova) translated into Converse bodies. Pure.

Nova's native body is Converse's in all but a few names; Anthropic's has its own content blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from local_bedrock.calls import Json
from local_bedrock.errors import invalid
from local_bedrock.wire import base_model_id

Dialect = Literal["anthropic", "nova"]

ANTHROPIC_VERSION = "bedrock-2023-05-31"


def dialect_of(model_id: str) -> Dialect:
    """Which native body a model speaks; everything that is not Claude speaks Nova's."""
    return "anthropic" if base_model_id(model_id).startswith("anthropic.") else "nova"


def to_converse(body: Mapping[str, Json], dialect: Dialect) -> dict[str, Json]:
    """The Converse body asking for the same. Raises ServiceError 400 for what the native format does not allow."""
    return _from_anthropic(body) if dialect == "anthropic" else _from_nova(body)


def _from_nova(body: Mapping[str, Json]) -> dict[str, Json]:
    known = {"schemaVersion", "messages", "system", "inferenceConfig", "toolConfig"}
    if unknown := set(body) - known:
        raise invalid(
            f"Malformed input request: extraneous key {sorted(unknown)} is not permitted, please reformat your input."
        )
    converse = {key: value for key, value in body.items() if key != "schemaVersion"}
    if isinstance(inference := body.get("inferenceConfig"), dict):
        renamed = {"max_new_tokens": "maxTokens", "top_p": "topP"}
        converse["inferenceConfig"] = {renamed.get(key, key): value for key, value in inference.items()}
    return converse


def _from_anthropic(body: Mapping[str, Json]) -> dict[str, Json]:
    if body.get("anthropic_version") != ANTHROPIC_VERSION:
        raise invalid(f"anthropic_version: must be {ANTHROPIC_VERSION!r}.")
    if "max_tokens" not in body:
        raise invalid("max_tokens: Field required")
    names = {
        "max_tokens": "maxTokens",
        "temperature": "temperature",
        "top_p": "topP",
        "stop_sequences": "stopSequences",
    }
    converse: dict[str, Json] = {
        "inferenceConfig": {names[key]: value for key, value in body.items() if key in names},
        "messages": [_anthropic_message(message) for message in _objects(body.get("messages"), "messages")],
    }
    if "system" in body:
        converse["system"] = _anthropic_content(body["system"], "system")
    if "tools" in body:
        config: dict[str, Json] = {
            "tools": [
                {
                    "toolSpec": {
                        "name": tool.get("name"),
                        "description": tool.get("description", ""),
                        "inputSchema": {"json": tool.get("input_schema")},
                    }
                }
                for tool in _objects(body["tools"], "tools")
            ]
        }
        match body.get("tool_choice"):
            case {"type": "tool", "name": name}:
                config["toolChoice"] = {"tool": {"name": name}}
            case {"type": "any"}:
                config["toolChoice"] = {"any": {}}
        converse["toolConfig"] = config
    return converse


def _anthropic_message(message: dict[str, Json]) -> Json:
    return {"role": message.get("role"), "content": _anthropic_content(message.get("content"), "content")}


def _anthropic_content(value: Json, where: str) -> list[Json]:
    if isinstance(value, str):
        return [{"text": value}]
    content: list[Json] = []
    for block in _objects(value, where):
        content.append(_anthropic_block(block, where))
        if "cache_control" in block:
            content.append({"cachePoint": {"type": "default"}})
    return content


def _anthropic_block(block: dict[str, Json], where: str) -> Json:
    match block:
        case {"type": "text", "text": text}:
            return {"text": text}
        case {"type": "tool_use", "id": tool_use_id, "name": name, "input": given}:
            return {"toolUse": {"toolUseId": tool_use_id, "name": name, "input": given}}
        case {"type": "tool_result", "tool_use_id": tool_use_id}:
            status = "error" if block.get("is_error") else "success"
            content = _anthropic_content(block.get("content", []), where)
            return {"toolResult": {"toolUseId": tool_use_id, "content": content, "status": status}}
    raise invalid(f"{where}: content type {block.get('type')!r} is not supported.")


def _objects(value: Json, where: str) -> list[dict[str, Json]]:
    if not isinstance(value, list):
        raise invalid(f"{where}: must be a list of objects.")
    objects = [item for item in value if isinstance(item, dict)]
    if len(objects) != len(value):
        raise invalid(f"{where}: must be a list of objects.")
    return objects
