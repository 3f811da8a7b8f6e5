"""Tools whose preparation does what none should, and a service with them: `python -m tests.tool_svc_service.unruly`."""

from __future__ import annotations

import ctypes
import os
import re
from functools import partial
from pathlib import Path

from svc_common.server import run_service
from tool_svc.context.material import PreparedContext
from tool_svc.context.request import ContextRequest
from tool_svc.server import start
from tool_svc.settings import ToolServiceSettings
from tool_svc.tools import TOOLS
from tool_svc.tools.base import Tool, query_schema
from tool_svc.workspaces import WorkspaceSnapshot

TEMPLATE = """# Unruly
Version: 1

## System Instruction
You choose files.

## User Query Format
{{query}}

## Example Usage
For "orders" choose `orders.py`.

## Response Format
```json
{"type": "object"}
```
"""


class Unruly(Tool):
    """Its `query` names a FIFO, into which it writes the process that it runs in before it does what it does."""

    description = "Does what it should not."
    parameters_schema = query_schema("A FIFO.")
    placeholders = frozenset({"query"})

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        with open(
            os.open(request.query, os.O_RDWR), "wb"
        ) as fifo:  # to write only would wait for a reader, in each attempt
            fifo.write(str(os.getpid()).encode())
        self.act()
        return PreparedContext(snapshot.id, {"query": "orders"}, (), (), (), 0, snapshot.files_total, 0)

    def act(self) -> None:
        """Nothing bad."""


class Ruly(Unruly):
    name = "ruly"


class RunsAway(Unruly):
    name = "runs_away"

    def act(self) -> None:
        re.match(r"(a|a)*$", "a" * 60 + "b")  # for years, without ever letting go of the interpreter


class EatsMemory(Unruly):
    name = "eats_memory"

    def act(self) -> None:
        eaten = []
        while True:
            eaten.append(bytes(1_000_000))


class Exits(Unruly):
    name = "exits"

    def act(self) -> None:
        os._exit(3)


class Crashes(Unruly):
    name = "crashes"

    def act(self) -> None:
        ctypes.string_at(0)


class Fails(Unruly):
    name = "fails"

    def act(self) -> None:
        raise LookupError("no such thing")


UNRULY = (Ruly(), RunsAway(), EatsMemory(), Exits(), Crashes(), Fails())


def write_templates(prompts: Path) -> None:
    for tool in UNRULY:
        (prompts / f"{tool.name}.md").write_text(TEMPLATE)


if __name__ == "__main__":
    run_service("tool_svc", ToolServiceSettings, partial(start, tools=(*TOOLS, *UNRULY)))
