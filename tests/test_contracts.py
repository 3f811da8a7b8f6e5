"""What no contract lets in: text and times that only one of the stores could keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dbp.budget.v1 import budget_pb2
from dbp.jobs.v1 import jobs_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from svc_common.errors import ServiceError
from svc_common.server_interceptor import validate

# Kept as bytes, as escaped JSON, without such characters, or not at all.
_CONTENT = {
    "TextOutput.text",
    "LabelsEntry.key",
    "LabelsEntry.value",
    "Failure.message",
    "AbortJobsRequest.message",
    "Money.currency_code",
}
# Only given out, though their message is also taken in.
_GIVEN_OUT = {"AuditRecord.time", "AuditRecord.previous_hash", "AuditRecord.hash"}


def messages_of_requests() -> Iterator[Descriptor]:
    """What the requests of the services that have a store consist of."""
    services = (budget_pb2.DESCRIPTOR.services_by_name, jobs_pb2.DESCRIPTOR.services_by_name)
    waiting = [method.input_type for named in services for service in named.values() for method in service.methods]
    seen: set[str] = set()
    while waiting:
        message = waiting.pop()
        if message.full_name not in seen and message.full_name != Timestamp.DESCRIPTOR.full_name:
            seen.add(message.full_name)
            yield message
            waiting += [field.message_type for field in message.fields if field.message_type]


def fields() -> Iterator[tuple[Descriptor, FieldDescriptor]]:
    for message in messages_of_requests():
        for field in message.fields:
            if f"{message.name}.{field.name}" not in _CONTENT | _GIVEN_OUT:
                yield message, field


def each(fields: list[tuple[Descriptor, FieldDescriptor]]) -> pytest.MarkDecorator:
    names = [f"{message.name}.{field.name}" for message, field in fields]
    return pytest.mark.parametrize(("message", "field"), fields, ids=names)


def violated(message: Message) -> set[str]:
    with pytest.raises(ServiceError) as caught:
        validate(message)
    return {violation.field.partition("[")[0] for violation in caught.value.violations}


@each([(message, field) for message, field in fields() if field.type == FieldDescriptor.TYPE_STRING])
def test_text_with_a_control_character_is_refused(message: Descriptor, field: FieldDescriptor) -> None:
    bad: str | list[str] = ["a\0"] if field.is_repeated else "a\0"
    assert field.name in violated(GetMessageClass(message)(**{field.name: bad}))


@each(
    [(message, field) for message, field in fields() if field.message_type and field.message_type.name == "Timestamp"]
)
@pytest.mark.parametrize("seconds", [-1, 3 * 10**13, 2**62])
def test_a_time_beyond_the_calendar_is_refused(message: Descriptor, field: FieldDescriptor, seconds: int) -> None:
    assert field.name in violated(GetMessageClass(message)(**{field.name: Timestamp(seconds=seconds)}))
