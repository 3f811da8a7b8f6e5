"""The shape of the house, held by its imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("coordinator_svc", "tool_svc", "jobs_svc", "budget_svc")
BASES = ("svc_common", "llm", "local_bedrock", "dbp_client")
TRANSPORT = ("grpc", "dbp", "google", "grpc_status")
# The parts of each store: what they hold is too much for one file.
STORE_ROOMS = {
    "jobs_svc": {"store", "tables", "rows", "statements", "reads", "transaction", "upkeep"},
    "budget_svc": {"store", "tables", "rows", "ledger_rows", "queries", "keeper", "retention"},
}
# Rooms that speak to the outside; every other module of a service is domain and stays free of transport and storage.
OUTER_ROOMS = {
    "coordinator_svc": {
        "server", "servicer", "front", "wire", "coordination", "ending", "fanout", "jobs_client", "budgets", "tools", "digest",
        "events", "results", "findings", "prompt", "costs"
    },
    "tool_svc": {"server", "servicer", "worker", "wire"},
    "jobs_svc": {"server", "servicer", "scaler", "wire", *STORE_ROOMS["jobs_svc"]},
    "budget_svc": {"server", "servicer", "wire", *STORE_ROOMS["budget_svc"]},
}  # fmt: skip


def modules(package: str) -> Iterator[Path]:
    return (path for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts)


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_imports_another(service: str) -> None:
    others = set(SERVICES) - {service}
    assert not [str(path) for path in modules(service) if imports(path) & others]


@pytest.mark.parametrize("base", BASES)
def test_what_services_share_imports_none_of_them(base: str) -> None:
    assert not [str(path) for path in modules(base) if imports(path) & set(SERVICES)]


@pytest.mark.parametrize("service", SERVICES)
def test_domain_modules_know_neither_transport_nor_storage(service: str) -> None:
    foreign = {*TRANSPORT, "sqlalchemy", "boto3", "botocore"}
    domain = [
        path
        for path in modules(service)
        if path.relative_to(ROOT / service).parts[0].removesuffix(".py") not in OUTER_ROOMS[service]
    ]
    assert domain
    assert not [(str(path), imports(path) & foreign) for path in domain if imports(path) & foreign]


@pytest.mark.parametrize("service", STORE_ROOMS)
def test_stores_do_not_speak_protobuf(service: str) -> None:
    stores = [path for path in modules(service) if path.stem in STORE_ROOMS[service]]
    assert len(stores) == len(STORE_ROOMS[service])
    assert not [str(path) for path in stores if imports(path) & set(TRANSPORT)]


@pytest.mark.parametrize("service", SERVICES)
def test_servicers_only_parse_call_and_format(service: str) -> None:
    tree = ast.parse((ROOT / service / "servicer.py").read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Try)]
