"""Results of earlier calls, so that an identical call costs nothing.

One file per result, named by the hash of all that the result depends on. Files and not a database, because several processes of a
machine share the folder: a rename is atomic, needs no lock, and a kill leaves at worst a temporary file. They outlive restarts,
and since content is part of the key they never go stale; the least recently used go when there are too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from svc_common.tokens import TokenUsage
from tool_svc.calls import Provenance, ToolResult

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_FORMAT = 1
_PRUNE_EVERY = 100


def result_key(parts: Mapping[str, Any]) -> str:
    """The name of a result that depends on `parts` (JSON values) alone."""
    canonical = json.dumps({"format": _FORMAT, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class ResultCache:
    """Stored results of complete calls, and one execution for identical calls in flight in this process."""

    def __init__(self, folder: Path, *, max_entries: int) -> None:
        self._folder = folder
        self._max_entries = max_entries
        self._running: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._stored_since_prune = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="result-cache")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def get_or_run(
        self, key: str, run: Callable[[], Awaitable[ToolResult]], *, may_keep: Callable[[], bool] = lambda: True
    ) -> ToolResult:
        """The stored result, marked as cached, or what `run` returns, which is stored when it is complete and `may_keep` says so.

        While an identical call runs, others wait for it. If it ends without a complete result, the next one runs by itself: why
        it ended so (its own budget, deadline or cancel) need not hold for the others.
        """
        lock = self._running.setdefault(key, asyncio.Lock())
        async with lock:
            stored = await self._in_thread(self._load, key)
            if stored is not None:
                return stored
            result = await run()
            if result.is_complete and self._max_entries and may_keep():
                # Not awaited: whoever asks for it looks in the same thread, and so after it was stored.
                self._thread.submit(self._store, key, result)
            return result

    def close(self) -> None:
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **named))

    def _load(self, key: str) -> ToolResult | None:
        path = self._folder / key
        try:
            stored = json.loads(path.read_bytes())
            os.utime(path)  # pruning goes by last use
            return _from_json(stored)
        except (OSError, ValueError, LookupError, TypeError):
            # None there, or one that a broken disk or another version left: the call is made anew.
            return None

    def _store(self, key: str, result: ToolResult) -> None:
        try:
            self._write(key, result)
        except OSError as error:
            # The result itself is there and paid for; that the next call pays again is worth a warning and no more.
            logger.warning("a result could not be kept: %s", error)

    def _write(self, key: str, result: ToolResult) -> None:
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".new-", delete=False) as file:
            file.write(json.dumps(asdict(result), ensure_ascii=False).encode("utf-8", "surrogatepass"))
        Path(file.name).replace(self._folder / key)
        self._stored_since_prune += 1
        if self._stored_since_prune >= _PRUNE_EVERY:
            self._stored_since_prune = 0
            self._prune()

    def _prune(self) -> None:
        entries = sorted(self._folder.iterdir(), key=_last_use, reverse=True)
        for entry in entries[self._max_entries :]:
            entry.unlink(missing_ok=True)


def _last_use(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # another process prunes too
        return path.stat().st_mtime
    return 0.0


def _from_json(stored: Mapping[str, Any]) -> ToolResult:
    """A stored result as an identical call gets it: what it rests on stands, what it cost was paid before."""
    facts = stored["provenance"] | {
        "tokens": TokenUsage(),
        "cost": 0,
        "duration": 0,
        "model_calls": 0,
        "is_cached": True,
    }
    return replace(
        ToolResult(stored["tool"]), output=stored["output"], text=stored["text"], provenance=Provenance(**facts)
    )
