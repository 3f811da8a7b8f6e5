"""What a context tool is: a name, its parameters, what it shows its LLM, and where its answers name files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tool_svc.context.material import CountTokens, PreparedContext, estimate_tokens
from tool_svc.context.scoped import ScopedView

MAX_QUERY_CHARACTERS = 8_192

QUERY_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"query": {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARACTERS}},
    "required": ["query"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """What a tool is asked: the question, further arguments by its schema, and the tokens that its context may take."""

    query: str
    token_budget: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    count_tokens: CountTokens = estimate_tokens


class ContextTool(Protocol):
    """One tool: a class with these members, and a template of the same name, are all there is to it."""

    @property
    def name(self) -> str:
        """Registered name, also of its prompt template."""

    @property
    def parameters_schema(self) -> Mapping[str, Any]:
        """JSON schema of its arguments."""

    @property
    def new_path_fields(self) -> frozenset[str]:
        """Fields of its answers beneath which a path may name a file that is still to be made."""

    def prepare(self, view: ScopedView, request: ContextRequest) -> PreparedContext:
        """What its LLM is shown."""
