"""Structured output: how a result is asked for, found in a model's turn, and checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from llm.conversation import Block
from llm.model_text import json_object
from llm.patterns import is_soon_matched
from llm.reply import MALFORMED
from llm.tokens import compact_json

RESULT_TOOL = "submit_result"
"""Name of the tool by whose arguments a model gives its result. No other tool may have it."""

_MAX_PROBLEMS = 5
# References followed in one check; a schema of doubling ones would take forever.
_MAX_REFERENCES = 10_000
_CODE_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n```\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Result:
    """What a turn offered as its result. Without problems it is valid."""

    output: Mapping[str, Any] | None
    raw: str
    problems: Sequence[str]
    tool_use_id: str = ""
    """Of the call that brought it; empty when it was text."""


def find_result(blocks: Sequence[Block], schema: Mapping[str, Any]) -> Result | None:
    """The result in a turn: the last call of the result tool, else JSON in its text, else None."""
    for block in reversed(blocks):
        use = block.get("toolUse")
        if use and use["name"] == RESULT_TOOL:
            if MALFORMED in use["input"]:
                return Result(None, use["input"][MALFORMED], ["not valid JSON"], use["toolUseId"])
            problems = violations(use["input"], schema)
            return Result(use["input"], compact_json(use["input"]), problems, use["toolUseId"])
    if any("toolUse" in block for block in blocks):
        return None
    text = "".join(block.get("text", "") for block in blocks).strip()
    if not text:
        return None
    value = _parse_object(text)
    if value is None:
        return Result(None, text, ["not a JSON object"])
    return Result(value, text, violations(value, schema))


def violations(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with a value, in words that let a model mend it; at most five.

    The schema may be a caller's: nothing is fetched for it, and one that leads too far for a value is a problem of that value.
    """
    validator = _Validator(schema, registry=Registry())
    _references.set(0)
    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: error.json_path)
    except (RecursionError, Unresolvable) as error:
        return [f"$: could not be checked: {error or type(error).__name__}"]
    return [f"{error.json_path}: {error.message[:200]}" for error in errors[:_MAX_PROBLEMS]]


def _follow(validator: Any, reference: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    _references.set(_references.get() + 1)
    if _references.get() > _MAX_REFERENCES:
        raise RecursionError("its schema refers to itself too often")
    yield from Draft202012Validator.VALIDATORS["$ref"](validator, reference, value, schema)


def _match(validator: Any, pattern: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not is_soon_matched(pattern, value):
        yield ValidationError(f"is too long for the pattern {pattern!r}")
        return
    yield from Draft202012Validator.VALIDATORS["pattern"](validator, pattern, value, schema)


_references: ContextVar[int] = ContextVar("references")
_Validator = extend(Draft202012Validator, {"$ref": _follow, "pattern": _match})  # type: ignore[no-untyped-call]  # untyped in the stubs


def _parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is or, among other words or in a code fence, holds."""
    match = _CODE_FENCE.match(text)
    candidate = match[1] if match else text[max(0, text.find("{")) : text.rfind("}") + 1]
    return json_object(candidate)
