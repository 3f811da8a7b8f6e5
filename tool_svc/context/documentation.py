"""The documents of a workspace: the context of the documentation tool."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import partial

from tool_svc.context.material import PreparedContext, fill
from tool_svc.context.request import ContextRequest
from tool_svc.context.scoped import ScopedView
from tool_svc.index.languages import DOCUMENT_RELATIONSHIPS, Role

_SHARE_OF_ONE = 0.5


def documentation_context(view: ScopedView, request: ContextRequest) -> PreparedContext:
    """Texts of documents: DOCUMENT_RELATIONSHIPS.md always, then the relevant ones first.

    Change logs are not among them.
    """
    candidates = ((path, partial(view.text, path)) for path in _documents(view, request.query))
    filling = fill(candidates, request.token_budget, request.count_tokens, share=_SHARE_OF_ONE)
    return filling.prepared(view.id, len(view.files), {"query": request.query, "documentation_files": filling.text()})


def _documents(view: ScopedView, query: str) -> Iterator[str]:
    always = [path for path in view.files if posixpath.basename(path) == DOCUMENT_RELATIONSHIPS]
    yield from always
    for file in view.best_first(query, [Role.DOCUMENT]):
        if file.path not in always:
            yield file.path
