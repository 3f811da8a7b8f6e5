"""The tool that writes commit messages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from svc_common.errors import invalid_field
from tool_svc.context.material import PreparedContext, fill
from tool_svc.context.request import ContextRequest
from tool_svc.context.scoped import ScopedView
from tool_svc.diffs import commits_diff, readable_files
from tool_svc.tools.base import Tool
from tool_svc.workspace.git import GitError, commit_of
from tool_svc.workspaces import WorkspaceSnapshot

_TITLE_LENGTH = 72
_SHOWN_FILES = 200
_SHARE_OF_ONE = 0.5
_RECENT_MESSAGES = 8


class CommitMessage(Tool):
    name = "get_commit_message"
    description = (
        "Writes a commit message (title, body, footer, impact) for a diff that is given, for all commits since a given one, or for "
        "the last commit."
    )
    parameters_schema: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {
            "query": {"type": "string", "maxLength": 4096, "description": "What the author says about the change."},
            "diff": {
                "type": "string",
                "maxLength": 60_000,
                "description": "A unified diff in git's format, e.g. of `git diff --staged`.",
            },
            "since": {
                "type": "string",
                "pattern": r"^[A-Za-z0-9][A-Za-z0-9._/~^@{}-]{0,199}$",
                "description": "A commit, tag or branch: describe what was committed since. Default: the last commit.",
            },
            "format": {"enum": ["conventional", "detailed", "summary"], "description": "Default: conventional."},
            "include_impact": {"type": "boolean", "description": "Say who notices the change. Default: true."},
            "max_title_length": {"type": "integer", "minimum": 20, "maximum": 200, "description": "Default: 72."},
        },
        "additionalProperties": False,
    }
    placeholders = frozenset(
        {"query", "diff", "changed_files", "recent_messages", "format", "include_impact", "max_title_length"}
    )
    new_path_fields = frozenset({"changed_files"})

    def settled(self, snapshot: WorkspaceSnapshot, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Tool`: `since` becomes the commit that it names now. Raises INVALID_ARGUMENT when it names none."""
        if parameters.get("diff") or not parameters.get("since"):
            return parameters
        try:
            return {**parameters, "since": commit_of(snapshot.root, parameters["since"])}
        except GitError as error:
            raise invalid_field("parameters.since", f"names no commit: {error}") from error

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        """Raises INVALID_ARGUMENT when there is no commit or no change that may be read."""
        asked = request.parameters
        try:
            diff = asked.get("diff") or commits_diff(snapshot.root, asked.get("since", ""), snapshot.commit)
        except GitError as error:
            raise invalid_field("parameters.since", f"no diff can be had: {error}") from error
        # Small changes first: more files are understood that way, and a huge one is mostly generated.
        files = sorted(readable_files(diff, snapshot.refusal), key=lambda file: len(file.text))
        if not files:
            raise invalid_field("parameters.diff", "holds no change to a file that may be read")
        filling = fill(
            ((file.path, partial(str, file.text)) for file in files),
            request.token_budget,
            request.count_tokens,
            share=_SHARE_OF_ONE,
        )
        changed = sorted(files, key=lambda file: file.path)
        values = {
            "query": request.query,
            "diff": filling.text(),
            "changed_files": "\n".join(f"{file.path} +{file.added} -{file.removed}" for file in changed[:_SHOWN_FILES]),
            "recent_messages": "\n".join(_titles(snapshot.view, skip_last=not asked.get("diff"))),
            "format": asked.get("format", "conventional"),
            "include_impact": "yes" if asked.get("include_impact", True) else "no",
            "max_title_length": str(asked.get("max_title_length", _TITLE_LENGTH)),
        }
        return filling.prepared(snapshot.id, snapshot.files_total, values)


def _titles(view: ScopedView, *, skip_last: bool) -> list[str]:
    """Titles of the last commits, without the one that may be what is to be described."""
    changes = view.recent_changes(_RECENT_MESSAGES + 1)
    return [change.message.partition("\n")[0] for change in changes[skip_last : _RECENT_MESSAGES + skip_last]]
