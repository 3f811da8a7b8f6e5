"""ToolService by gRPC: direct calls, files, contexts, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from dbp.common.v1 import common_pb2
from dbp.tool.v1 import tool_pb2, tool_pb2_grpc
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from local_bedrock.backends.script import Script
from svc_common.channel import call, stream
from svc_common.errors import ErrorReason, ServiceError
from svc_common.money import PICO, to_amount
from tests.tool_svc.trees import commit, git
from tests.tool_svc_service.house import CODEBASE, RELEVANT, ToolHouse, answering, endless, reading, tool_call


async def execute(stub: Any, **request: Any) -> list[tool_pb2.ExecuteToolResponse]:
    async with stream(stub.ExecuteTool(tool_pb2.ExecuteToolRequest(**{"call": tool_call(), **request}))) as responses:
        return [response async for response in responses]


async def test_a_direct_call_streams_progress_and_ends_with_the_result(house: ToolHouse) -> None:
    tools = await house.start_tools(role="service")
    responses = await execute(tools)
    assert any(response.HasField("progress") for response in responses)
    assert "relevant_files" in "".join(response.text_delta for response in responses)
    result = responses[-1].result
    assert MessageToDict(result.output)["relevant_files"][0]["path"] == "shop/orders.py"
    assert 0 < result.metadata.cost.pico_usd < PICO // 10
    assert (await execute(tools))[-1].result.metadata.is_cached


async def test_a_direct_call_spends_no_more_than_it_may(house: ToolHouse) -> None:
    tools = await house.start_tools(role="service")
    result = (await execute(tools, max_cost=to_amount(1)))[-1].result
    assert result.reason == common_pb2.END_REASON_BUDGET_EXCEEDED
    assert (result.metadata.cost.pico_usd, len(house.bedrock.invoice.records())) == (0, 0)


async def test_a_caller_that_leaves_ends_its_call(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(endless(),)))
    tools = await house.start_tools(role="service")
    async with stream(tools.ExecuteTool(tool_pb2.ExecuteToolRequest(call=tool_call()))) as responses:
        async for response in responses:
            if response.HasField("text_delta"):
                break
    await house.bedrock.wait_idle(5)


async def test_more_direct_calls_than_slots_are_refused(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(endless(),)))
    tools = await house.start_tools(role="service", concurrency=1)
    async with stream(tools.ExecuteTool(tool_pb2.ExecuteToolRequest(call=tool_call()))) as responses:
        await anext(responses)
        with pytest.raises(ServiceError) as refused:
            await execute(tools)
    assert refused.value.reason is ErrorReason.OVERLOADED


async def test_a_call_that_makes_no_sense_is_refused(house: ToolHouse) -> None:
    tools = await house.start_tools(role="service")
    for request, reason in (
        ({"call": tool_call("no_such_tool")}, ErrorReason.TOOL_NOT_FOUND),
        ({"call": tool_call(workspace="elsewhere")}, ErrorReason.WORKSPACE_NOT_FOUND),
        ({"call": tool_call(query="q", mood="good")}, ErrorReason.INVALID_ARGUMENT),
        ({"call": tool_call(query="q", directories=["../.."])}, ErrorReason.PATH_OUTSIDE_WORKSPACE),
        ({"call": tool_call(budget_id="nobody")}, ErrorReason.BUDGET_NOT_FOUND),
        ({"max_cost": to_amount(-1)}, ErrorReason.INVALID_ARGUMENT),
        ({"max_cost": to_amount(11 * PICO)}, ErrorReason.INVALID_ARGUMENT),
    ):
        with pytest.raises(ServiceError) as refused:
            await execute(tools, **request)
        assert refused.value.reason is reason


async def test_files_that_may_not_be_read_are_data(house: ToolHouse) -> None:
    (house.workspace / ".env").write_text("TOKEN=1\n")
    tools = await house.start_tools(role="service")
    paths = ["README.md", "../jobs.sqlite", "/etc/passwd", ".env", "nowhere.py"]
    read = await call(tools.ReadFiles, tool_pb2.ReadFilesRequest(workspace="default", paths=paths))
    codes = ["", "OUTSIDE_WORKSPACE", "OUTSIDE_WORKSPACE", "SECRET", "NOT_FOUND"]
    assert [file.error_code for file in read.files] == codes
    assert list(read.missing) == paths[1:]
    assert read.files[0].content.startswith("# Shop")


async def test_a_workspace_is_described_within_its_scope(house: ToolHouse) -> None:
    tools = await house.start_tools(role="service")
    request = tool_pb2.DescribeWorkspaceRequest(
        workspace="default", scope=common_pb2.Scope(directories=["shop"], exclude_patterns=["stock.*"])
    )
    assert list((await call(tools.DescribeWorkspace, request)).paths) == ["shop/orders.py"]
    whole = await call(tools.DescribeWorkspace, tool_pb2.DescribeWorkspaceRequest(workspace="default", max_paths=1))
    assert (len(whole.paths), whole.files_total, whole.languages["Python"]) == (1, 4, 2)
    assert [file.path for file in whole.business_context] == ["README.md"]


async def test_a_context_is_shown_without_a_model_call(house: ToolHouse) -> None:
    tools = await house.start_tools(role="service")
    asked = tool_call(query="how are payments retried?", directories=["shop"])
    shown = await call(tools.PrepareContext, tool_pb2.PrepareContextRequest(call=asked))
    assert shown.included_paths[0] == "shop/orders.py"
    assert "retries failed payments" in shown.user
    assert "how are payments retried?" in shown.user
    assert (shown.files_total, len(house.bedrock.invoice.records())) == (2, 0)


async def test_directories_narrow_the_scope_unless_the_model_made_them_up(house: ToolHouse) -> None:
    (house.workspace / "shop" / "till").mkdir()
    (house.workspace / "shop" / "till" / "drawer.py").write_text('"""Opens the drawer."""\n')
    tools = await house.start_tools(role="service")
    for directories, files_total in ((["shop/till"], 1), (["."], 3), (["docs", "shop/till"], 1), (["nowhere"], 3)):
        asked = tool_call(query="payments", directories=directories)
        asked.scope.directories.append("shop")
        shown = await call(tools.PrepareContext, tool_pb2.PrepareContextRequest(call=asked))
        assert shown.files_total == files_total


async def test_the_last_commit_gets_a_message(house: ToolHouse) -> None:
    message = {"title": "Retry payments", "body": "", "changed_files": [{"path": "shop/orders.py", "change": "new"}]}
    house.bedrock.load_script(Script(rules=(answering(message),)))
    tools = await house.start_tools(role="service")
    asked = tool_call("get_commit_message", format="summary")
    shown = await call(tools.PrepareContext, tool_pb2.PrepareContextRequest(call=asked))
    assert "+RETRIES = 3" in shown.user
    assert "shop/orders.py +3 -0" in shown.user
    result = (await execute(tools, call=asked))[-1].result
    assert result.output["title"] == "Retry payments"


async def test_a_stored_message_is_given_while_since_means_the_same_commit(house: ToolHouse) -> None:
    house.bedrock.load_script(Script(rules=(answering({"title": "Add stock", "body": ""}),)))
    tools = await house.start_tools(role="service")
    for number in range(2):
        commit(house.workspace, f"Add {number}", {f"new{number}.py": "1\n"})
    git(house.workspace, "branch", "base", "HEAD~1")
    asked = tool_call("get_commit_message", since="base")
    assert [(await execute(tools, call=asked))[-1].result.metadata.is_cached for _ in range(2)] == [False, True]
    git(house.workspace, "branch", "-f", "base", "HEAD~2")
    assert not (await execute(tools, call=asked))[-1].result.metadata.is_cached


async def test_what_rests_on_newer_files_than_the_snapshot_is_not_kept_as_its_result(house: ToolHouse) -> None:
    answer = {"relevant_documents": [], "direct_answer": {"summary": "A shop.", "source_documents": ["README.md"]}}
    house.bedrock.load_script(Script(rules=(answering(answer),)))
    tools = await house.start_tools(role="service")
    described = await call(tools.DescribeWorkspace, tool_pb2.DescribeWorkspaceRequest(workspace="default"))
    asked = tool_call("coordinator_get_documentation_context", query="the shop")
    asked.snapshot_id = described.snapshot_id
    before = (house.workspace / "README.md").read_text()
    (house.workspace / "README.md").write_text("# Something new\n")
    shown = await call(tools.PrepareContext, tool_pb2.PrepareContextRequest(call=asked))
    assert "[this file has changed since the snapshot; this is its newer content]\n# Something new" in shown.user
    assert [(await execute(tools, call=asked))[-1].result.metadata.is_cached for _ in range(2)] == [False, False]
    (house.workspace / "README.md").write_text(before)
    assert [(await execute(tools, call=asked))[-1].result.metadata.is_cached for _ in range(2)] == [False, True]


async def test_a_path_is_known_in_one_spelling(house: ToolHouse) -> None:
    path = "shop/../shop/orders.py"
    named = RELEVANT["relevant_files"][0] | {"path": path}
    house.bedrock.load_script(Script(rules=(reading(path), answering({"relevant_files": [named]}))))
    tools = await house.start_tools(role="service")
    result = (await execute(tools, call=tool_call(query="payments")))[-1].result
    assert MessageToDict(result.output)["relevant_files"] == [named | {"path": "shop/orders.py"}]
    assert result.metadata.files_processed == 2


async def test_a_process_that_only_pulls_jobs_serves_health_and_nothing_else(house: ToolHouse) -> None:
    channel = await house.start_tools_channel(role="worker")
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(ServiceError, match="not found"):
        await call(tool_pb2_grpc.ToolServiceStub(channel).ListTools, tool_pb2.ListToolsRequest())


async def test_tools_are_listed_with_what_a_model_needs_to_call_them(house: ToolHouse) -> None:
    tools = await house.start_tools(role="service")
    listed = {tool.name: tool for tool in (await call(tools.ListTools, tool_pb2.ListToolsRequest())).tools}
    assert len(listed) == 7
    assert not listed["read_files"].runs_as_job
    assert listed[CODEBASE].runs_as_job
    assert MessageToDict(listed[CODEBASE].parameters_schema)["required"] == ["query"]


async def test_all_calls_that_name_a_snapshot_see_its_files_whatever_happens_meanwhile(house: ToolHouse) -> None:
    tools = await house.start_tools()
    described = await tools.DescribeWorkspace(tool_pb2.DescribeWorkspaceRequest(workspace="default"))
    (house.workspace / "shop" / "orders.py").unlink()
    (house.workspace / "shop" / "invoices.py").write_text('"""Payments are retried here."""\n')
    present = await tools.DescribeWorkspace(tool_pb2.DescribeWorkspaceRequest(workspace="default"))
    assert present.snapshot_id != described.snapshot_id

    asked = tool_call(query="how are payments retried?")
    asked.snapshot_id = described.snapshot_id
    context = await tools.PrepareContext(tool_pb2.PrepareContextRequest(call=asked))
    assert context.snapshot_id == described.snapshot_id
    assert "shop/invoices.py" not in [*context.included_paths, *context.left_out_paths]

    request = tool_pb2.ReadFilesRequest(workspace="default", paths=["shop/invoices.py"])
    assert (await tools.ReadFiles(request)).files[0].exists
    request.snapshot_id = described.snapshot_id
    assert list((await tools.ReadFiles(request)).missing) == ["shop/invoices.py"]

    asked.snapshot_id = "files:unheard-of"
    context = await tools.PrepareContext(tool_pb2.PrepareContextRequest(call=asked))
    assert context.snapshot_id == present.snapshot_id
