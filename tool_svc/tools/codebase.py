"""The tools that look at source code: what it is for, how it has changed, and what an architect says of it."""

from __future__ import annotations

from tool_svc.context.changes import codebase_changelog_context
from tool_svc.context.codebase import codebase_context, expert_context
from tool_svc.context.material import PreparedContext
from tool_svc.context.request import ContextRequest
from tool_svc.tools.base import Tool, query_schema
from tool_svc.workspaces import WorkspaceSnapshot


class CodebaseContext(Tool):
    name = "coordinator_get_codebase_context"
    description = (
        "Finds the source files that matter for a question and says what each is for, how they belong together and where new code "
        "would go. It knows the headers, docstrings and symbols of all files, not their full text."
    )
    parameters_schema = query_schema("What to find out about the code, complete in itself.")
    placeholders = frozenset(
        {"query", "file_headers", "total_files", "compliant_files", "incomplete_header_files", "missing_header_files"}
    )
    new_path_fields = frozenset({"suggested_implementation_locations"})

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        return codebase_context(snapshot.view, request)


class CodebaseChangelogContext(Tool):
    name = "coordinator_get_codebase_changelog_context"
    description = (
        "Says how the source code has changed: when, which files and why. It knows the change histories in file headers and the "
        "commits of the repository. For questions about recent work, regressions and reasons."
    )
    parameters_schema = query_schema("What to find out about changes to the code, complete in itself.")
    placeholders = frozenset({"query", "change_entries"})

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        return codebase_changelog_context(snapshot.view, request)


class ExpertArchitectAdvice(Tool):
    name = "coordinator_get_expert_architect_advice"
    description = (
        "Advises on architecture: how to build or change something here, with alternatives and risks. A stronger and dearer model "
        "that knows all sections of the file headers and reads files itself. For decisions, not for finding things."
    )
    parameters_schema = query_schema("What to decide or design, with the constraints that hold.")
    placeholders = frozenset({"query", "file_headers"})
    model_role = "expert"
    new_path_fields = frozenset({"architectural_recommendation", "alternatives_considered"})

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        return expert_context(snapshot.view, request)
