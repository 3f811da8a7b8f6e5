"""Git's ignore rules, one level at a time, as a walk goes down the tree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore import GitIgnorePatternError

GITIGNORE = ".gitignore"
MAX_STARS = 3

_ESCAPED_SLASH = re.compile(r"(?<!\\)((?:\\\\)*)\\/")
_STARRED = re.compile(r"\*.*\*")
_GROUP_NAME = re.compile(r"\(\?P<\w+>")


class _Level:
    """The patterns of one ignore file, relative to the directory it stands in."""

    def __init__(self, directory: str, spec: GitIgnoreSpec, above: str) -> None:
        self._prefix_length = len(directory) + 1 if directory else 0
        self._above = above
        self._spec = spec
        # One expression over all patterns: most files match none of them, and one match says so.
        self._any = re.compile(
            "|".join(_without_group_names(pattern.regex.pattern) for pattern in spec.patterns if pattern.regex)
        )

    def decide(self, path: str) -> bool | None:
        """True when ignored, False when re-included, None when no pattern speaks of it."""
        relative = self._above + path[self._prefix_length :]
        if self._any.search(relative) is None:
            return None
        return self._spec.check_file(relative).include


@dataclass(frozen=True, slots=True, eq=False)
class IgnoreRules:
    """All rules that hold in one directory, the deepest ignore file first because it overrules those above it."""

    levels: tuple[_Level, ...] = ()

    def ignores(self, path: str, *, is_directory: bool) -> bool:
        """Whether the rules exclude `path` (workspace-relative).

        Nothing beneath an excluded directory can be re-included.
        """
        if not self.levels:
            return False
        asked = f"{path}/" if is_directory else path
        for level in self.levels:
            decision = level.decide(asked)
            if decision is not None:
                return decision
        return False

    def with_file(self, directory: str, lines: Iterable[str], *, above: str = "") -> IgnoreRules:
        """These rules and those of an ignore file that stands in `directory` ("" for the root).

        `above` leads from an ignore file above the root to the root, e.g. `services/mail/`.
        """
        spec = compile_patterns(lines)
        return IgnoreRules((_Level(directory, spec, above), *self.levels)) if spec.patterns else self


def compile_patterns(lines: Iterable[str]) -> GitIgnoreSpec:
    """The patterns of an ignore file. A line that git could not read either matches nothing."""
    patterns = []
    for line in lines:
        try:
            plain = _ESCAPED_SLASH.sub(r"\1/", line)  # to git it is a slash like any other
            patterns += [pattern for pattern in GitIgnoreSpec.from_lines([_tamed(plain)]).patterns if pattern.regex]
        except GitIgnorePatternError:
            continue
    return GitIgnoreSpec(patterns)


def _tamed(line: str) -> str:
    """A pattern that cannot make the regular expression engine run for hours; a workspace may hold a hostile one.

    With too many stars it is widened, so that it ignores more: what stands between the first and the last star of a segment goes,
    and what stands between the first and the last `**`. A re-inclusion with so many is dropped.
    """
    if all(segment.count("*") <= MAX_STARS for segment in line.split("/")) and line.count("**") <= MAX_STARS:
        return line
    if line.startswith("!"):
        return ""
    segments = ["**" if segment == "**" else _STARRED.sub("*", segment) for segment in line.split("/")]
    if segments.count("**") > 1:
        first, last = segments.index("**"), len(segments) - segments[::-1].index("**")
        segments[first:last] = ["**"]
    return "/".join(segments)


def _without_group_names(pattern: str) -> str:
    return _GROUP_NAME.sub("(?:", f"(?:{pattern})")
