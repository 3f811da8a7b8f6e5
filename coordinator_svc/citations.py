"""Which files an answer names."""

from __future__ import annotations

import re

# A path as people write it in prose: parts joined by slashes, or one name with an extension. Ends of sentences are not part of it.
_PATH = re.compile(r"(?<![\w/.-])((?:[\w.@+-]+/)+[\w.@+-]*\w|[\w@+-][\w.@+-]*\.[A-Za-z]\w{0,9})(?![\w/])")
MOST = 50


def named_paths(text: str) -> list[str]:
    """Path-like words of a text in order of first appearance, at most 50. Whether they exist is for the workspace to say."""
    seen: dict[str, None] = {}
    for match in _PATH.finditer(text):
        seen.setdefault(match.group(1).removeprefix("./"))
        if len(seen) == MOST:
            break
    return list(seen)
