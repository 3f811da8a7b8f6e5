"""What a coordinator is told of a workspace before it decides anything."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tool_svc.context.material import CountTokens, cut_text
from tool_svc.context.scoped import ScopedView
from tool_svc.index.languages import language_of

_BUSINESS_NAMES = re.compile(r"^(pr-faq\.md|working_backwards\.md|readme(\.\w+)?)$", re.I)
_BUSINESS_ORDER = ("pr-faq", "working_backwards", "readme")
MAX_BUSINESS_FILES = 4


@dataclass(frozen=True, slots=True)
class BusinessFile:
    """A file that says what the project is for, possibly cut."""

    path: str
    content: str
    is_cut: bool


@dataclass(frozen=True, slots=True)
class BaseContext:
    """Listing, date and business context of a workspace's state.

    `paths` are cut to the asked number, `files_total` counts all in scope; `now` is ISO 8601.
    """

    snapshot_id: str
    now: str
    paths: tuple[str, ...]
    files_total: int
    languages: Mapping[str, int]
    business: tuple[BusinessFile, ...]


def base_context(
    view: ScopedView, now: datetime, *, max_paths: int, business_tokens: int, count_tokens: CountTokens
) -> BaseContext:
    """The base context. When not all paths fit, those nearest the root are listed, for they tell most about the layout."""
    nearest = sorted(view.files, key=lambda path: (path.count("/"), path))[:max_paths]
    languages = Counter(language_of(path) or "other" for path in view.files)
    return BaseContext(
        view.id,
        now.isoformat(timespec="seconds"),
        tuple(sorted(nearest)),
        len(view.files),
        dict(languages.most_common()),
        tuple(_business(view, business_tokens, count_tokens)),
    )


def _business(view: ScopedView, tokens: int, count_tokens: CountTokens) -> list[BusinessFile]:
    paths = [path for path in view.files if path.count("/") <= 1 and _BUSINESS_NAMES.match(posixpath.basename(path))]
    paths.sort(
        key=lambda path: (
            path.count("/"),
            _BUSINESS_ORDER.index(posixpath.splitext(posixpath.basename(path))[0].lower()),
            path,
        )
    )
    files = []
    for path in paths[:MAX_BUSINESS_FILES]:
        text = view.text(path)
        if text is not None:
            content = cut_text(text, tokens // MAX_BUSINESS_FILES, count_tokens)
            files.append(BusinessFile(path, content, content != text))
    return files
