"""A workspace as one request sees it: one state, narrowed to the request's scope."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tool_svc.index.languages import Role
from tool_svc.index.meanings import Meanings
from tool_svc.index.parse import FileFacts
from tool_svc.index.view import Change, IndexedFile, IndexView
from tool_svc.ranking import RankedFile, rank
from tool_svc.workspace.scope import Scope

ReadText = Callable[[str], "str | None"]


class ScopedView:
    """The files of `view` that `scope` holds.

    `read_text` gives a file's text, or None when it cannot be read any more. With `meanings` files are ranked by them, too.
    """

    def __init__(self, view: IndexView, scope: Scope, read_text: ReadText, meanings: Meanings | None = None) -> None:
        self._view = view
        self._meanings = meanings
        self._read_text = read_text
        self.id = view.id
        self.files: Mapping[str, IndexedFile] = (
            view.files() if scope.is_whole else {path: file for path, file in view.files().items() if scope.holds(path)}
        )

    def ranked(self, query: str, roles: Iterable[Role]) -> list[RankedFile]:
        """Files of these roles that anything speaks for, the most relevant for `query` first."""
        wanted = frozenset(roles)

        def accepts(path: str) -> bool:
            file = self.files.get(path)
            return file is not None and file.role in wanted

        return rank(self._view, query, accepts, self._meanings)

    def best_first(self, query: str, roles: Iterable[Role]) -> tuple[list[IndexedFile], list[IndexedFile]]:
        """The files of these roles that have to do with `query`, the most relevant first, and all the others: what was changed
        lately, then by path."""
        ranked = self.ranked(query, roles := frozenset(roles))
        relevant = [entry.file for entry in ranked if entry.is_relevant]
        recent = [entry.file for entry in ranked if not entry.is_relevant]
        seen = {entry.file.path for entry in ranked}
        rest = sorted(path for path, file in self.files.items() if file.role in roles and path not in seen)
        return relevant, [*recent, *(self.files[path] for path in rest)]

    def of_roles(self, *roles: Role) -> list[IndexedFile]:
        """Files of these roles, in no order."""
        return [file for file in self.files.values() if file.role in roles]

    def facts(self, files: Iterable[IndexedFile]) -> dict[str, FileFacts]:
        """What is known of `files`, by path."""
        return self._view.facts(files)

    def text(self, path: str) -> str | None:
        """Text of a file in scope; None when it has gone or become unreadable since."""
        return self._read_text(path) if path in self.files else None

    def recent_changes(self, limit: int) -> list[Change]:
        """The last commits that changed files in scope, newest first, with only those files."""
        changes = self._view.recent_changes(limit)
        return [narrowed for change in changes if (narrowed := self._narrowed(change)).paths]

    def _narrowed(self, change: Change) -> Change:
        return Change(
            change.hash, change.time, change.message, tuple(path for path in change.paths if path in self.files)
        )
