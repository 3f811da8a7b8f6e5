"""`read_files`, the plain function that every LLM instance is offered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm.instance import ToolOutcome, ToolSpec
from tool_svc.workspace.reading import FilesRead, FileText
from tool_svc.workspaces import WorkspaceSnapshot

# What one call may put into a conversation; files share it evenly.
MAX_BYTES_PER_CALL = 96 * 1024

READ_FILES = ToolSpec(
    name="read_files",
    description=(
        "Reads text files of the workspace. Gives for each path its content, size and time of last change, or why it cannot be "
        "read. Ignored, binary and secret files are never given; long files are cut, with a mark."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "paths": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 4096},
                "minItems": 1,
                "maxItems": 20,
                "description": "Paths relative to the root of the workspace.",
            }
        },
        "required": ["paths"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, slots=True)
class ModelReading:
    """What a model gets back, and the files that it has seen now."""

    outcome: ToolOutcome
    paths: Sequence[str]


def read_for_model(snapshot: WorkspaceSnapshot, paths: Sequence[str]) -> ModelReading:
    """Reads files for a model that called `READ_FILES`. Blocking. A file that cannot be read is data."""
    read = snapshot.read_files(paths, max_bytes_per_file=MAX_BYTES_PER_CALL // len(paths))
    seen = [file.path for file in read.files if file.exists]
    return ModelReading(ToolOutcome(_shown(read), is_error=not seen), seen)


def _shown(read: FilesRead) -> dict[str, Any]:
    return {"files": [_shown_file(file) for file in read.files if file.exists], "missing": _missing(read)}


def _shown_file(file: FileText) -> dict[str, Any]:
    return {
        "path": file.path,
        "size": file.size,
        "last_modified": file.last_modified.isoformat(timespec="seconds") if file.last_modified else None,
        "is_truncated": file.is_truncated,
        "content": file.content,
    }


def _missing(read: FilesRead) -> list[dict[str, Any]]:
    return [
        {"path": file.path, "error": file.error, "error_code": file.error_code}
        for file in read.files
        if not file.exists
    ]
