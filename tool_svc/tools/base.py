"""What a tool is: one small class, and one prompt template of the same name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from tool_svc.calls import DIRECTORIES
from tool_svc.context.material import PreparedContext
from tool_svc.context.request import ContextRequest
from tool_svc.workspaces import WorkspaceSnapshot


class Tool(ABC):
    """A kind of LLM instance. A subclass that is registered, and its template, are all there is to a tool."""

    name: ClassVar[str]
    """Registered name: the kind of its jobs and the stem of its template's file."""
    description: ClassVar[str]
    """For the LLM that chooses: what it gives and when to use it."""
    parameters_schema: ClassVar[Mapping[str, Any]]
    """JSON schema of its parameters, type object."""
    placeholders: ClassVar[frozenset[str]]
    """Placeholders of its template: the keys of the values that `prepare` gives."""
    model_role: ClassVar[str] = "fast"
    """Models it runs on, unless the model catalogue has a role of the tool's name."""
    new_path_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields of its output beneath which paths may name files that are still to be made."""

    def settled(self, snapshot: WorkspaceSnapshot, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters with names that may come to mean something else made definite. Blocking; called in a thread.

        Calls with the same settled parameters on the same snapshot have the same result.
        """
        return parameters

    @abstractmethod
    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        """Puts together what the instance sees. Blocking; called in a thread."""


def query_schema(query: str, **further: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters of a tool that answers questions: `query`, described so, and optional ones: `directories` and `further`."""
    properties: dict[str, Any] = {
        "query": {"type": "string", "minLength": 1, "maxLength": 16_384, "description": query},
        DIRECTORIES: {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 512},
            "maxItems": 16,
            "description": "Only look at files beneath these existing directories. Leave it out to look at all.",
        },
        **further,
    }
    return {"type": "object", "properties": properties, "required": ["query"], "additionalProperties": False}
