"""Which files an answer names."""

from __future__ import annotations

import re

# A path as people write it in prose, by what it is recognized. Ends of sentences are not part of it.
_PATH = re.compile(
    r"(?<![\w/.-])("
    r"(?:[\w.@+-]+/)+[\w.@+-]*\w"  # parts joined by slashes
    r"|[\w@+-][\w.@+-]*\.[A-Za-z]\w{0,9}"  # one name with an extension
    r"|[A-Z]\w*file|[A-Z]{4,}"  # Makefile, LICENSE
    r"|(?<=`)[\w@+.-]+(?=`)"  # any word set as code
    r")(?![\w/])"
)
MOST = 100


def named_paths(text: str) -> list[str]:
    """Words of a text that may be paths, in order of first appearance, at most 100. Which are, is for the workspace to say."""
    seen: dict[str, None] = {}
    for match in _PATH.finditer(text):
        seen.setdefault(match.group(1).removeprefix("./"))
        if len(seen) == MOST:
            break
    return list(seen)
