"""Fences: text that nobody vouches for, marked as data, so that a model does not take it for instructions.

    <data name="query" source="client">
    how does the retry work?
    </data>

A fence cannot be closed from within: whatever looks like one of its tags inside the text is defused.
"""

from __future__ import annotations

import re

_TAG = re.compile(r"<(?=\s*/?\s*data\b)", re.IGNORECASE)
_OPENING = re.compile(r'<data name="([^"\n]*)"[^\n]*>\n')
_END = "\n</data>"
_NOT_IN_ATTRIBUTE = re.compile(r"[^\w .:/@#=+,()\[\]-]+")
_INLINE_LIMIT = 400


def fence(name: str, text: str, source: str = "") -> str:
    """The text as data. `name` says what it is; `source` where it comes from: a path, a tool, "client"."""
    origin = f' source="{_attribute(source)}"' if source else ""
    defused = _TAG.sub("&lt;", text)
    return f'<data name="{_attribute(name)}"{origin}>\n{defused}{_END}'


def inline(text: str) -> str:
    """The text as a short value within a sentence of a prompt: one line, no tags, at most 400 characters."""
    return " ".join(text.split())[:_INLINE_LIMIT].replace("<", "&lt;")


def name_of(text: str) -> str:
    """The name of the fence that the text begins with, or "" when it begins with none."""
    match = _OPENING.match(text)
    return match[1] if match else ""


def cut(text: str, max_bytes: int) -> str:
    """The beginning of a text in about `max_bytes` of UTF-8, with a mark that says how much is gone; a fence stays closed."""
    opening = _OPENING.match(text)
    begin, end = (opening[0], _END) if opening and text.endswith(_END) else ("", "")
    body = text[len(begin) : len(text) - len(end)].encode("utf-8", "surrogatepass")
    room = max(0, max_bytes - len(begin.encode()) - len(end))
    if len(body) <= room:
        return text
    kept = body[:room].decode("utf-8", "ignore")
    return f"{begin}{kept}\n[... {len(body) - len(kept.encode())} bytes left out: no room in the context ...]{end}"


def _attribute(text: str) -> str:
    return _NOT_IN_ATTRIBUTE.sub("_", text)[:200]
