"""A further tool is a class and a template; a template that is missing or wrong stops the start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dbp.tool.v1 import tool_pb2
from google.protobuf.json_format import MessageToDict

from local_bedrock.backends.script import Script
from svc_common.server import StartupError
from tests.tool_svc_service.house import PROMPTS, ToolHouse, answering
from tool_svc.context.material import PreparedContext, fill
from tool_svc.context.request import ContextRequest
from tool_svc.tools import TOOLS
from tool_svc.tools.base import Tool, query_schema
from tool_svc.workspaces import WorkspaceSnapshot

TEMPLATE = """# Listing
Version: 1

## System Instruction
You choose files by their names.

## User Query Format
{{query}}

{{names}}

## Example Usage
For "orders" choose `orders.py`.

## Response Format
```json
{"type": "object", "properties": {"files": {"type": "array", "items": {"type": "string"}}}, "required": ["files"]}
```
"""


class FileNames(Tool):
    name = "get_file_names"
    description = "Chooses files by their names."
    parameters_schema = query_schema("What the files are about.")
    placeholders = frozenset({"query", "names"})

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        paths = snapshot.listing(100)
        filling = fill(((path, str) for path in paths), request.token_budget, request.count_tokens)
        return filling.prepared(snapshot.id, len(paths), {"query": request.query, "names": filling.text()})


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROMPTS, tmp_path / "prompts"))


async def test_a_class_and_a_template_make_a_tool(house: ToolHouse, prompts: Path) -> None:
    (prompts / "get_file_names.md").write_text(TEMPLATE)
    house.bedrock.load_script(Script(rules=(answering({"files": ["./shop/orders.py:3", "made/up.py"]}),)))
    await house.start_tools((*TOOLS, FileNames()), prompts_dir=prompts)
    await house.submit("job", FileNames.name, query="orders")
    result = tool_pb2.ToolResult.FromString((await house.ended("job")).result)
    assert MessageToDict(result.output)["files"] == ["shop/orders.py"]


async def test_a_missing_template_stops_the_start_with_its_place(house: ToolHouse, prompts: Path) -> None:
    with pytest.raises(StartupError, match=r"prompts/get_file_names\.md:1: "):
        await house.start_tools((*TOOLS, FileNames()), prompts_dir=prompts)


async def test_an_unknown_placeholder_stops_the_start_with_its_line(house: ToolHouse, prompts: Path) -> None:
    (prompts / "get_file_names.md").write_text(TEMPLATE.replace("{{names}}", "{{nmaes}}"))
    with pytest.raises(StartupError, match=r"get_file_names\.md:10: .*nmaes"):
        await house.start_tools((*TOOLS, FileNames()), prompts_dir=prompts)
