"""The values of the coordinator's prompt template. Words that instruct are in the template, not here."""

from __future__ import annotations

import json
from datetime import datetime

from dbp.tool.v1 import tool_pb2

from coordinator_svc.requests import RequestSpec
from svc_common.money import format_usd
from svc_common.times import MICROS

TEMPLATE = "coordinator_main"
PLACEHOLDERS = frozenset(
    {
        "query",
        "context",
        "parameters",
        "now",
        "workspace",
        "snapshot",
        "file_listing",
        "business_context",
        "tools_cost",
        "limits",
        "response_format",
        "previous",
    }
)


def prompt_values(
    spec: RequestSpec,
    workspace: tool_pb2.DescribeWorkspaceResponse,
    *,
    tools_cost: str,
    now: datetime,
    deadline: int,
    previous: str,
) -> dict[str, str]:
    """One value per placeholder."""
    seconds = max(0.0, deadline / MICROS - now.timestamp())
    return {
        "query": spec.query,
        "context": spec.context,
        "parameters": json.dumps(dict(spec.parameters), ensure_ascii=False) if spec.parameters else "",
        "now": now.isoformat(timespec="seconds"),
        "workspace": spec.workspace,
        "snapshot": workspace.snapshot_id,
        "file_listing": _listing(workspace),
        "business_context": "\n\n".join(f"{file.path}\n{file.content}" for file in workspace.business_context),
        "tools_cost": tools_cost,
        "limits": (
            f"{format_usd(spec.max_cost)} USD; {seconds:.0f} seconds; {spec.max_rounds} rounds of tool calls; "
            f"{spec.max_jobs} jobs, {spec.max_parallel_jobs} at a time"
        ),
        "response_format": spec.response_format.value,
        "previous": previous,
    }


def left_of_limits(available: int | None, deadline: int, now: int) -> str:
    """What is left of money (pico-USD, None when not known) and time, in words."""
    seconds = f"{max(0, deadline - now) // MICROS} s"
    return seconds if available is None else f"{format_usd(available)} USD, {seconds}"


def _listing(workspace: tool_pb2.DescribeWorkspaceResponse) -> str:
    left_out = workspace.files_total - len(workspace.paths)
    return "\n".join([*workspace.paths, *([f"... and {left_out} files more"] if left_out > 0 else [])])
