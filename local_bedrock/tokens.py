"""Counting and cutting tokens. The script backend's rule: one token per four UTF-8 bytes, rounded up, per text."""

from __future__ import annotations

from typing import Protocol

BYTES_PER_TOKEN = 4


class Tokenizer(Protocol):
    """Counts are exact and never exceed the text's UTF-8 bytes. May block: call it off the event loop if it does."""

    def count(self, text: str) -> int:
        """Tokens of one text."""

    def cut(self, text: str, limit: int) -> str:
        """The longest beginning of `text` that has at most `limit` tokens."""


class ByteTokenizer:
    """The script backend's tokenizer: deterministic, and easy to reckon in a test."""

    def count(self, text: str) -> int:
        return -(-len(text.encode()) // BYTES_PER_TOKEN)

    def cut(self, text: str, limit: int) -> str:
        return text.encode()[: limit * BYTES_PER_TOKEN].decode(errors="ignore")
