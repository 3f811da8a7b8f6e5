"""A parsing process that some files are the end of."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tool_svc.index import parsers

_parse_batch = parsers._parse_batch


def serve(pipe: Connection, root: Path, max_file_bytes: int) -> None:
    """As `parsers._serve`, but ends at a file `dies.py` and stops at a file `hangs.py`."""
    parsers._parse_batch = _parse_unless_unruly
    parsers._serve(pipe, root, max_file_bytes)


def _parse_unless_unruly(
    parser: parsers.ContentParser, root: Path, paths: Sequence[str], max_file_bytes: int
) -> list[parsers.ParsedFile]:
    if "dies.py" in paths:
        os._exit(1)
    if "hangs.py" in paths:
        os.kill(os.getpid(), signal.SIGSTOP)
    return _parse_batch(parser, root, paths, max_file_bytes)
