"""The tools. To add one: a class, a template in the prompts folder, a line here."""

from __future__ import annotations

from tool_svc.tools.base import Tool
from tool_svc.tools.codebase import CodebaseChangelogContext, CodebaseContext, ExpertArchitectAdvice
from tool_svc.tools.commit_message import CommitMessage
from tool_svc.tools.documentation import DocumentationChangelogContext, DocumentationContext

TOOLS: tuple[Tool, ...] = (
    CodebaseContext(),
    CodebaseChangelogContext(),
    DocumentationContext(),
    DocumentationChangelogContext(),
    ExpertArchitectAdvice(),
    CommitMessage(),
)
