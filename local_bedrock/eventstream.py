"""Frames of `application/vnd.amazon.eventstream`, the framing of every Bedrock response stream. Pure encoding."""

from __future__ import annotations

import json
import struct
from binascii import crc32
from collections.abc import Mapping

from local_bedrock.calls import Json

CONTENT_TYPE = "application/vnd.amazon.eventstream"

_STRING_HEADER = 7
_PRELUDE_BYTES = 12
_CRC_BYTES = 4


def encode_frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame: lengths, their CRC32, string headers, payload, CRC32 of all before.

    A header name takes at most 255 UTF-8 bytes and a value 65,535; `struct.error` beyond that.
    """
    encoded = b"".join(_encode_header(name, value) for name, value in headers.items())
    total = _PRELUDE_BYTES + len(encoded) + len(payload) + _CRC_BYTES
    prelude = struct.pack("!II", total, len(encoded))
    message = prelude + struct.pack("!I", crc32(prelude)) + encoded + payload
    return message + struct.pack("!I", crc32(message))


def encode_event(event_type: str, body: Json) -> bytes:
    """An ordinary event, such as `contentBlockDelta`."""
    return encode_frame(
        {":event-type": event_type, ":content-type": "application/json", ":message-type": "event"}, _dump(body)
    )


def encode_exception(exception_type: str, body: Json) -> bytes:
    """A modelled error inside a stream; `exception_type` is lower camel case (`throttlingException`)."""
    return encode_frame(
        {":exception-type": exception_type, ":content-type": "application/json", ":message-type": "exception"},
        _dump(body),
    )


def encode_error(code: str, message: str) -> bytes:
    """An error inside a stream that the service model does not know."""
    return encode_frame({":error-code": code, ":error-message": message, ":message-type": "error"}, b"")


def _encode_header(name: str, value: str) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode()
    return (
        struct.pack("!B", len(name_bytes))
        + name_bytes
        + struct.pack("!BH", _STRING_HEADER, len(value_bytes))
        + value_bytes
    )


def _dump(body: Json) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
