"""Keeping a result within the size that the queue and the coordinator take."""

from __future__ import annotations

import json
from dataclasses import replace

from svc_common.texts import shortened
from tool_svc.calls import ToolResult


def capped(result: ToolResult, max_bytes: int) -> ToolResult:
    """The result with at most about `max_bytes` of output and text.

    An output that is too long becomes text, cut with a mark, because half of an object would break its schema.
    """
    written = "" if result.output is None else json.dumps(result.output, ensure_ascii=False)
    if _size(written) + _size(result.text) <= max_bytes:
        return result
    return replace(
        result,
        output=None,
        text=shortened(written or result.text, max_bytes),
        is_partial=True,
        missing=(*result.missing, f"what lies beyond {max_bytes} bytes of the result; ask for less at once"),
        provenance=replace(result.provenance, is_truncated=True),
    )


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
