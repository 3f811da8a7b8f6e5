"""The tools that look at documents: what they say, and how they have changed."""

from __future__ import annotations

from tool_svc.context.changes import documentation_changelog_context
from tool_svc.context.documentation import documentation_context
from tool_svc.context.material import PreparedContext
from tool_svc.context.request import ContextRequest
from tool_svc.tools.base import Tool, query_schema
from tool_svc.workspaces import WorkspaceSnapshot


class DocumentationContext(Tool):
    name = "coordinator_get_documentation_context"
    description = (
        "Answers a question from the project's documents: which of them speak of it, in which sections, how they relate, and where "
        "they contradict each other. For what the project promises, decides and explains."
    )
    parameters_schema = query_schema("What to find out from the documents, complete in itself.")
    placeholders = frozenset({"query", "documentation_files"})

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        return documentation_context(snapshot.view, request)


class DocumentationChangelogContext(Tool):
    name = "coordinator_get_documentation_changelog_context"
    description = (
        "Says how the project's documents and releases have changed over time, from change logs, release notes and the history of "
        "the documents. For questions about when something was decided, announced or released."
    )
    parameters_schema = query_schema("What to find out about changes to the documents, complete in itself.")
    placeholders = frozenset({"query", "changelog_entries"})

    def prepare(self, snapshot: WorkspaceSnapshot, request: ContextRequest) -> PreparedContext:
        return documentation_changelog_context(snapshot.view, request)
