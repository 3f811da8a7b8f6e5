"""Which prompt prefixes cachePoints have left cached, and how a call's input so splits into plain, read and written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from local_bedrock.calls import CachePoint, Usage


class PromptCache:
    """Prefixes by model, kept in memory until their time to live has passed since they were last used."""

    def __init__(self, min_tokens: int, clock: Callable[[], float]) -> None:
        self._min_tokens = min_tokens
        self._clock = clock
        self._expiry_of: dict[bytes, float] = {}

    def input_usage(self, model_id: str, segments: Sequence[str | CachePoint], counts: Sequence[int]) -> Usage:
        """Split a call's input and remember what it cached. `counts` holds one count per text segment, in order."""
        now = self._clock()
        self._expiry_of = {key: expiry for key, expiry in self._expiry_of.items() if expiry > now}
        digest = hashlib.sha256(model_id.encode())
        tokens = read = written_to = 0
        remaining = iter(counts)
        for segment in segments:
            if isinstance(segment, str):
                digest.update(segment.encode() + b"\0")
                tokens += next(remaining)
            elif tokens >= self._min_tokens:
                key = digest.digest()
                if key in self._expiry_of:
                    read = tokens
                self._expiry_of[key] = now + segment.ttl_seconds
                written_to = tokens
        return Usage(input_tokens=tokens - written_to, cache_read_tokens=read, cache_write_tokens=written_to - read)
