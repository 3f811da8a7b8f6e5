"""Writes the settings reference in docs/operations.md from the settings classes, so that the two cannot differ.

Usage: python tools/settings_reference.py write | check
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from svc_common.money import format_usd
from svc_common.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operations.md"
BEGIN = "<!-- settings: begin (written by tools/settings_reference.py) -->"
END = "<!-- settings: end -->"

CLASSES = {
    "svc_common.settings.CommonSettings": "all services and the client",
    "coordinator_svc.settings.CoordinatorSettings": "coordinator_svc",
    "jobs_svc.settings.JobsSettings": "jobs_svc",
    "budget_svc.settings.BudgetSettings": "budget_svc",
    "tool_svc.settings.ToolServiceSettings": "tool_svc, service and worker",
    "llm.settings.LlmSettings": "the LLM instances in coordinator_svc and tool_svc",
    "local_bedrock.settings.LocalBedrockSettings": "the local Bedrock endpoint",
}
"""Every settings class, by its full name, and who reads it."""


def settings_class(name: str) -> type[Settings]:
    module, _, attribute = name.rpartition(".")
    found: type[Settings] = getattr(importlib.import_module(module), attribute)
    return found


def own_fields(cls: type[Settings]) -> list[str]:
    """The settings of the class itself; the common ones, which each service holds too, have a table of their own."""
    return [name for name in cls.model_fields if name != "common"]


def environment_names(cls: type[Settings]) -> set[str]:
    """The environment variables that the class reads."""
    prefix = cls.model_config.get("env_prefix", "")
    return {f"{prefix}{field}".upper() for field in own_fields(cls)}


def reference() -> str:
    """The part of the page between its two marks."""
    parts = [part for name, reader in CLASSES.items() for part in _section(settings_class(name), reader)]
    return "\n".join(parts)


def _section(cls: type[Settings], reader: str) -> Iterator[str]:
    prefix = cls.model_config.get("env_prefix", "")
    yield f"### `[{cls.table}]`: {reader}"
    yield ""
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for field in own_fields(cls):
        default = cls.model_fields[field].get_default(call_default_factory=True)
        yield f"| `{f'{prefix}{field}'.upper()}` | {_spelled(field, default)} | {_meaning(cls, field)} |"
        if isinstance(default, BaseModel):
            for key, value in default:
                yield f"| its `{key}` | {_spelled(key, value)} | {_meaning(type(default), key)} |"
    yield ""


def _spelled(field: str, value: Any) -> str:
    match value:
        case None:
            return "not set"
        case BaseModel():
            return "a table"
        case str() | tuple() | dict() if not value:
            return "empty"
        case bool():
            return f"`{str(value).lower()}`"
        case int() if field.endswith("_usd"):
            return f"`{format_usd(value)}`"
        case Path() if value.is_relative_to(ROOT):
            return f"`{value.relative_to(ROOT)}` of the repository"
        case Enum():
            return f"`{value.value}`"
        case tuple():
            return f"`{', '.join(value)}`"
        case dict():
            return f"`{', '.join(f'{name}={entry}' for name, entry in value.items())}`"
    return f"`{value}`"


def _meaning(cls: type[BaseModel], field: str) -> str:
    # A service that only gives an inherited setting its own default need not describe it again.
    bases = [base for base in cls.__mro__ if issubclass(base, BaseModel) and field in base.model_fields]
    meaning = next((text for base in bases if (text := base.model_fields[field].description)), "")
    if not meaning:
        raise SystemExit(f"{cls.__module__}.{cls.__name__}.{field} has no description")
    annotation = cls.model_fields[field].annotation
    if get_origin(annotation) is Literal:
        meaning += f"; one of {', '.join(f'`{choice}`' for choice in get_args(annotation))}"
    return meaning.replace("|", "\\|")


def with_reference(page: str) -> str:
    """The page with the reference as it should be. Raises SystemExit when its marks are gone."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE.relative_to(ROOT)} lacks the marks around the settings reference")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def main() -> int:
    page = PAGE.read_text()
    fresh = with_reference(page)
    match sys.argv[1:]:
        case ["write"]:
            PAGE.write_text(fresh)
            return 0
        case ["check"]:
            if page == fresh:
                return 0
            print("docs/operations.md is behind the settings: run tools/settings_reference.py write", file=sys.stderr)
            return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
