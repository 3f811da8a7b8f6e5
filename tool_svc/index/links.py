"""From what a file refers to, as written, to the files that this means in the workspace. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator

from tool_svc.index.parse import FileFacts

_SOURCE_ROOTS = ("", "src/", "lib/", "python/")
_SCRIPT_SUFFIXES = (
    "",
    ".js",
    ".ts",
    ".tsx",
    ".jsx",
    ".mjs",
    "/index.js",
    "/index.ts",
    ".h",
    ".hpp",
    ".rb",
    ".sh",
    ".proto",
)


class Links:
    """Resolves references among `paths`."""

    def __init__(self, paths: Collection[str]) -> None:
        self._paths = paths

    def targets(self, path: str, facts: FileFacts) -> set[str]:
        """The files of the workspace that the file at `path` refers to, or that its name pairs it with."""
        found = {target for reference in facts.references for target in self._resolved(path, reference, facts.language)}
        found.update(candidate for candidate in _counterparts(path) if candidate in self._paths)
        found.discard(path)
        return found

    def _resolved(self, path: str, reference: str, language: str) -> Iterator[str]:
        candidates = _python_candidates(path, reference) if language == "Python" else _path_candidates(path, reference)
        yield from (candidate for candidate in candidates if candidate in self._paths)


def _python_candidates(path: str, module: str) -> Iterator[str]:
    dots = len(module) - len(module.lstrip("."))
    if dots:
        base = path
        for _ in range(dots):
            base = posixpath.dirname(base)
        roots: tuple[str, ...] = (f"{base}/" if base else "",)
    else:
        roots = _SOURCE_ROOTS
    name = module.lstrip(".").replace(".", "/")
    for root in roots:
        for suffix in (".py", "/__init__.py", ".pyi"):
            yield f"{root}{name}{suffix}"


def _path_candidates(path: str, reference: str) -> Iterator[str]:
    for base in (posixpath.dirname(path), ""):
        target = posixpath.normpath(
            posixpath.join(base, reference.lstrip("/") if reference.startswith("/") else reference)
        )
        for suffix in _SCRIPT_SUFFIXES:
            yield target + suffix


def _counterparts(path: str) -> Iterator[str]:
    """Where the tests of a source file usually are, and the source of tests."""
    directory, _, name = path.rpartition("/")
    stem, suffix = posixpath.splitext(name)
    if stem.startswith("test_") or stem.endswith("_test"):
        bare = stem.removeprefix("test_").removesuffix("_test")
        package = directory.removeprefix("tests").removeprefix("test").strip("/")
        for base in {directory, package, posixpath.dirname(directory), "src"}:
            yield f"{base}/{bare}{suffix}".lstrip("/")
    else:
        for base in {directory, "tests", "test", f"tests/{directory}", f"{directory}/tests"}:
            yield f"{base}/test_{stem}{suffix}".lstrip("/")
            yield f"{base}/{stem}_test{suffix}".lstrip("/")
