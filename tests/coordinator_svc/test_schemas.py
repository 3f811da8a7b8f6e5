"""What schema a caller may wish its answer by, and that no schema can hold the process up."""

from __future__ import annotations

import json

import pytest

from coordinator_svc.schemas import parse_response_schema
from llm.structured import violations
from svc_common.errors import ServiceError


def schema(**fields: object) -> str:
    return json.dumps({"type": "object", **fields})


def problems(value: object, text: str) -> list[str]:
    return violations(value, parse_response_schema(text) or {})


@pytest.mark.parametrize(
    "text",
    [
        schema(properties={"a": {"$ref": "#/$defs/a~1b"}}, **{"$defs": {"a/b": {"type": "string"}}}),
        schema(properties={"child": {"$ref": "#"}, "twin": {"$ref": "#/properties/child"}}),
        schema(properties={"pattern": {"type": "string"}, "$ref": {"type": "string"}}),
        schema(properties={"day": {"pattern": r"^\d{4}-\d{2}-\d{2}$"}, "version": {"pattern": r"^\d+\.\d+\.\d+$"}}),
        schema(properties={"grade": {"pattern": "^(low|high)$"}}),
        schema(**{"$schema": "http://json-schema.org/draft-07/schema#"}),
    ],
)
def test_a_schema_that_stands_by_itself_is_taken(text: str) -> None:
    assert parse_response_schema(text)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 5000,
        '{"type": "object", "maxProperties": NaN}',
        schema(properties={"a": {"$ref": "#/$defs/none"}}),
        schema(properties={"a": {"$ref": "http://localhost:1/schema.json"}}),
        schema(properties={"a": {"$ref": "#/enum/0"}}, enum=[{"type": "string"}]),
        schema(properties={"a": {"$id": "http://localhost:1/", "$ref": "#/x"}}),
        schema(properties={"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}),
        schema(properties={"a": {"$dynamicRef": "#a"}}),
        schema(patternProperties={"^a": {}}),
        schema(properties={"a": {"pattern": "^(a+)+$"}}),
        schema(properties={"a": {"pattern": "^(a|a)(a|a)(a|a)(a|a)$"}}),
        schema(properties={"a": {"pattern": "a*a*a*b"}}),
        schema(properties={"a": {"pattern": r"(a)\1"}}),
        schema(properties={"a": {"pattern": "(?=a)"}}),
        schema(properties={"a": {"pattern": "(a*){50}"}}),
        schema(properties={"a": {"pattern": "("}}),
    ],
)
def test_a_schema_that_leads_elsewhere_or_takes_long_is_refused(text: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_response_schema(text)
    assert [violation.field for violation in caught.value.violations] == ["response_schema"]


def test_a_value_that_a_schema_leads_too_far_for_is_invalid_and_not_checked_forever() -> None:
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    doubling = schema(**{"$ref": "#/$defs/d0", "$defs": {**twice, "d40": {}}})
    assert "refers to itself too often" in problems({}, doubling)[0]
    assert "could not be checked" in problems({}, schema(allOf=[{"$ref": "#"}]))[0]
    slow = schema(properties={"a": {"pattern": r"^\d+\d+\d+$"}})
    assert problems({"a": "1" * 100}, slow) == []
    assert "too long for the pattern" in problems({"a": "1" * 5000 + "x"}, slow)[0]
