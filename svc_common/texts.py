"""Text that must not grow too long."""

from __future__ import annotations


def shortened(text: str, max_bytes: int) -> str:
    """The text, or its beginning in at most `max_bytes` of UTF-8 with a mark that says how much is gone."""
    whole = text.encode("utf-8", "surrogatepass")
    if len(whole) <= max_bytes:
        return text
    kept = whole[:max_bytes].decode("utf-8", "ignore")
    return f"{kept}\n[... cut here, {len(whole) - len(kept.encode())} bytes left out ...]"
