"""What a context is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tool_svc.context.material import CountTokens, PreparedContext, estimate_tokens
from tool_svc.context.scoped import ScopedView


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """A question, further arguments of the tool, and the tokens that the context may take."""

    query: str
    token_budget: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    count_tokens: CountTokens = estimate_tokens


Prepare = Callable[[ScopedView, ContextRequest], PreparedContext]
