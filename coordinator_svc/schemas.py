"""The JSON schema that a caller wishes its answer by: trusted as little as anything else a caller sends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from llm.patterns import free_choices
from svc_common.errors import ServiceError, invalid_field

# Keywords that would have a validator look elsewhere, or match names of any length that a model makes up.
_REFUSED = ("$schema", "$id", "$dynamicRef", "$dynamicAnchor", "patternProperties")
_LOCAL = re.compile(r"#(?:/(?:\$defs|definitions|properties)/[^/]+)*")
_MOST_CHOICES = 3


def parse_response_schema(text: str) -> Mapping[str, Any] | None:
    """The JSON schema of an answer, or None for none.

    Raises INVALID_ARGUMENT when it is not one of an object, refers to anything outside itself, or could take long to check.
    """
    if not text:
        return None
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
        Draft202012Validator.check_schema(schema)
    except (ValueError, SchemaError, RecursionError) as error:
        raise _invalid(f"is not a JSON schema: {error.args[0]}") from error
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise _invalid('must be a schema with "type": "object"')
    schema.pop("$schema", None)  # it is read as one of draft 2020-12, whatever it says
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for part in _objects(schema):
        if refused := [keyword for keyword in _REFUSED if keyword in part]:
            raise _invalid(f"must not use {refused[0]}")
        if isinstance(reference := part.get("$ref"), str):
            _check_reference(reference, resolver)
        if isinstance(pattern := part.get("pattern"), str):
            choices = free_choices(pattern)
            if choices is None or choices > _MOST_CHOICES:
                raise _invalid(f"has a pattern that could take too long to match: {pattern!r}")
    return schema


def _check_reference(reference: str, resolver: Any) -> None:
    if not _LOCAL.fullmatch(reference):
        raise _invalid(f"must refer to its own $defs and properties only, not to {reference!r}")
    try:
        resolver.lookup(reference)
    except Unresolvable as error:
        raise _invalid(f"refers to {reference!r}, which is not there") from error


def _objects(schema: object) -> Iterator[Mapping[str, Any]]:
    """Every object in it, whatever it stands for: a reference may lead anywhere."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _invalid(description: str) -> ServiceError:
    return invalid_field("response_schema", description)
