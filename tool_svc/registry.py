"""The tools that stand, each with its checked template, and the check of what they are called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jsonschema import Draft202012Validator

from llm.templates import Template, load_templates
from llm.tokens import compact_json, text_bytes
from svc_common.errors import ErrorReason, ServiceError, invalid_field
from tool_svc.calls import ToolCall
from tool_svc.tools.base import Tool

MAX_PARAMETER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    tool: Tool
    template: Template
    parameters: Draft202012Validator


class ToolRegistry:
    """All tools by name. Raises TemplateError when a tool's template is missing or malformed."""

    def __init__(self, tools: Iterable[Tool], prompts: Path) -> None:
        by_name = {tool.name: tool for tool in tools}
        templates = load_templates(prompts, {name: tool.placeholders for name, tool in by_name.items()})
        self._tools = {
            name: RegisteredTool(tool, templates[name], Draft202012Validator(tool.parameters_schema))
            for name, tool in sorted(by_name.items())
        }

    def __iter__(self) -> Iterator[RegisteredTool]:
        return iter(self._tools.values())

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    def checked(self, call: ToolCall) -> RegisteredTool:
        """The tool that a call may call. Raises TOOL_NOT_FOUND; INVALID_ARGUMENT naming the parameter that is wrong."""
        registered = self._tools.get(call.tool)
        if registered is None:
            known = ", ".join(self._tools)
            raise ServiceError(ErrorReason.TOOL_NOT_FOUND, f"there is no tool {call.tool!r}; there are {known}")
        if text_bytes(compact_json(call.parameters)) > MAX_PARAMETER_BYTES:
            raise invalid_field("parameters", f"must be at most {MAX_PARAMETER_BYTES} bytes as JSON")
        for error in registered.parameters.iter_errors(call.parameters):
            field = ".".join(str(part) for part in ("parameters", *error.absolute_path))
            raise invalid_field(field, error.message[:300])
        return registered
