"""What becomes of the tool calls in a model's turn: which are run and which are answered with an error it can mend."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm import notices
from llm.conversation import Block, Message
from llm.fence import fence
from llm.instance import ToolOutcome, ToolSpec, ToolUse
from llm.notices import Notices
from llm.reply import MALFORMED
from llm.structured import violations
from llm.tokens import compact_json

_SOUND = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_UNSOUND_NAME = "no_such_tool"
"""Stands in the conversation for a name that a model made up and that no model would be sent back."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Calls of one turn: `to_run` in order, and the refusals of the others by the id of the call."""

    to_run: Sequence[ToolUse]
    refused: Mapping[str, ToolOutcome]


def judge(messages: Sequence[Message], specs: Sequence[ToolSpec], texts: Notices, *, limit: int) -> Verdict:
    """Judges the calls in the last message, which is the model's; at most `limit` of them are run."""
    by_name = {spec.name: spec for spec in specs}
    seen = _successful_calls(messages[:-1])
    to_run: list[ToolUse] = []
    refused: dict[str, ToolOutcome] = {}
    for use in tool_uses(messages[-1]["content"]):
        key = _key(use)
        if use.name not in by_name:
            problem = texts.text(notices.UNKNOWN_TOOL, tools=", ".join(sorted(by_name)) or "none")
        elif MALFORMED in use.input:
            problem = texts.text(notices.INVALID_ARGUMENTS, problems="they are no JSON object")
        elif found := violations(use.input, by_name[use.name].input_schema):
            problem = texts.text(notices.INVALID_ARGUMENTS, problems="; ".join(found))
        elif key in seen:
            problem = texts.text(notices.REPEATED_CALL)
        elif len(to_run) >= limit:
            problem = texts.text(notices.TOO_MANY_CALLS, limit=str(limit))
        else:
            seen.add(key)
            to_run.append(use)
            continue
        refused[use.id] = ToolOutcome(problem, is_error=True)
    return Verdict(to_run, refused)


def with_sound_calls(blocks: Sequence[Block], messages: Sequence[Message]) -> list[Block]:
    """A model's turn as it can be sent back to a model: calls with ids of their own in the conversation, and names that can be."""
    ids = {use.id for message in messages for use in tool_uses(message["content"])}
    sound: list[Block] = []
    for block in blocks:
        if use := block.get("toolUse"):
            number = len(ids)
            chosen = use["toolUseId"]
            while chosen in ids or not _SOUND.fullmatch(chosen):
                number += 1
                chosen = f"call_{number}"
            ids.add(chosen)
            name = use["name"] if _SOUND.fullmatch(use["name"]) else _UNSOUND_NAME
            block = {"toolUse": {**use, "toolUseId": chosen, "name": name}}
        sound.append(block)
    return sound


def tool_uses(blocks: Sequence[Block]) -> list[ToolUse]:
    uses = [block["toolUse"] for block in blocks if "toolUse" in block]
    return [ToolUse(use["toolUseId"], use["name"], use["input"]) for use in uses]


def result_block(use: ToolUse, outcome: ToolOutcome, *, is_notice: bool = False) -> Block:
    """An outcome as the model gets it: fenced as data, unless it is a notice of ours."""
    text = outcome.content if isinstance(outcome.content, str) else compact_json(outcome.content)
    shown = text if is_notice else fence("tool_result", text, use.name)
    state = "error" if outcome.is_error else "success"
    return {"toolResult": {"toolUseId": use.id, "content": [{"text": shown}], "status": state}}


def _successful_calls(messages: Sequence[Message]) -> set[str]:
    """Calls that were made and did not fail: one that failed may be made again."""
    made: dict[str, str] = {}
    seen: set[str] = set()
    for message in messages:
        made |= {use.id: _key(use) for use in tool_uses(message["content"])}
        for block in message["content"]:
            result = block.get("toolResult")
            if result and result["status"] == "success" and result["toolUseId"] in made:
                seen.add(made[result["toolUseId"]])
    return seen


def _key(use: ToolUse) -> str:
    return f"{use.name} {compact_json(dict(sorted(use.input.items())))}"
