"""docs/seed-to-rpc.md names things that exist."""

from __future__ import annotations

import re

from dbp.budget.v1 import budget_pb2
from dbp.coordinator.v1 import coordinator_pb2
from dbp.jobs.v1 import jobs_pb2
from dbp.tool.v1 import tool_pb2

from tests.deploy.manifests import ROOT

CONTRACTS = (budget_pb2, coordinator_pb2, jobs_pb2, tool_pb2)


def test_the_page_names_each_rpc_of_the_contracts_and_no_other() -> None:
    page = (ROOT / "docs" / "seed-to-rpc.md").read_text()
    existing = {
        f"{service.name}.{method.name}"
        for contract in CONTRACTS
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(re.findall(r"`(\w+Service\.\w+)`", page)) == existing


def test_each_module_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "seed-to-rpc.md").read_text()
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", page))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
