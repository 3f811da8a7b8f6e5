from __future__ import annotations

import pytest
from dbp.common.v1 import common_pb2
from dbp.coordinator.v1 import coordinator_pb2

from coordinator_svc.citations import named_paths
from coordinator_svc.requests import RequestSpec, ResponseFormat, ScopeSpec, jobs_deadline, request_deadline
from coordinator_svc.wire import parse_spec
from svc_common.errors import ServiceError
from svc_common.times import MICROS

NOW = 1_000_000 * MICROS


def spec(**fields: object) -> RequestSpec:
    return RequestSpec(id="r", tenant="t", query="q", workspace="w", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own_seconds", "caller_seconds", "expected_seconds"),
    [(0, None, 30.0), (60, None, 60.0), (0, 10, 9.9), (60, 10, 9.9), (5, 10, 5.0), (0, 1000, 300.0)],
)
def test_the_earliest_limit_is_the_deadline(
    own_seconds: int, caller_seconds: int | None, expected_seconds: float
) -> None:
    caller = None if caller_seconds is None else NOW + caller_seconds * MICROS
    due = request_deadline(spec(max_micros=own_seconds * MICROS), NOW, caller, 30 * MICROS, MICROS // 10)
    assert (due - NOW) / MICROS == expected_seconds


@pytest.mark.parametrize(
    ("left", "latest", "expected"),
    [(8, 8, 6), (300, 300, 270), (8, 5, 5)],
)
def test_jobs_leave_a_share_of_the_time_for_the_answer(left: int, latest: int, expected: int) -> None:
    due = jobs_deadline(NOW, NOW + left * MICROS, 0.25, 30 * MICROS, NOW + latest * MICROS)
    assert due == NOW + expected * MICROS


def test_a_request_survives_its_job() -> None:
    whole = spec(
        scope=ScopeSpec(include_patterns=("*.py",), directories=("src",)),
        parameters={"depth": 2.0},
        response_format=ResponseFormat.JSON,
        response_schema={"type": "object"},
    )
    assert RequestSpec.from_json(whole.to_json()) == whole


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": "   "}, "query"),
        ({"query": "q", "max_cost": common_pb2.Amount(pico_usd=-1)}, "max_cost"),
        ({"query": "q", "max_cost": common_pb2.Amount(pico_usd=11 * 10**12)}, "max_cost"),
        ({"query": "q", "response_schema": "{}"}, "response_schema"),
        ({"query": "q", "response_schema": "{", "response_format": 4}, "response_schema"),
        ({"query": "q", "response_schema": '{"type": "nonsense"}', "response_format": 4}, "response_schema"),
        ({"query": "q", "response_schema": '{"type": "array"}', "response_format": 4}, "response_schema"),
    ],
)
def test_what_the_proto_cannot_say_is_refused_by_name(fields: dict[str, object], field: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_spec(coordinator_pb2.ProcessRequestRequest(**fields))  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.violations] == [field]


def test_numbers_that_are_not_finite_are_refused() -> None:
    request = coordinator_pb2.ProcessRequestRequest(query="q")
    request.parameters.update({"depth": float("nan")})
    with pytest.raises(ServiceError) as caught:
        parse_spec(request)
    assert [violation.field for violation in caught.value.violations] == ["parameters"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("See `shop/orders.py` and README.md.", ["shop/orders.py", "README.md"]),
        ("In ./a/b.c, (d/e.md), and a/b.c again", ["a/b.c", "d/e.md"]),
        ("No file: 3.14, and http://example.org/x.html is on another machine", []),
        ("the folder src/deep/ is no file", []),
        ("A Makefile, the LICENSE; `.gitignore` and `run`", ["Makefile", "LICENSE", ".gitignore", "run"]),
    ],
)
def test_paths_are_found_in_prose(text: str, paths: list[str]) -> None:
    assert named_paths(text) == paths
