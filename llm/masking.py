"""Masking of what looks like a secret, by its form or by the name that it goes under, before text is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MASK = "[masked]"
# Token counts, which are no secret, go under much the same names.
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|phrase|code)|secret|token(?!s|i[sz])|credential"
    r"|(?:api|access|account|auth|encryption|private|service|signing|ssh)[_\-. ]?key",
    re.IGNORECASE,
)
_BY_FORM = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bAIza[\w-]{30,}"
    r"|\bgh[oprsu]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abeoprs]-[\w-]{10,}|\b[prs]k_(?:live|test)_\w{16,}|\bsk-[\w-]{20,}"
    r"|\b(?:hf|npm)_[A-Za-z0-9]{20,}|\bpypi-[\w-]{20,}|\bwhsec_\w{16,}|\bSG\.[\w-]{16,}\.[\w-]{16,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
    r"|(?<=://)[^/\s:@]+:[^/\s:@]+(?=@)",
    re.DOTALL,
)
# A name, what may follow in it, and a value: in quotes, which may themselves be escaped, or a word.
_BY_NAME = re.compile(
    rf"((?:{_SECRET_NAME.pattern})[\w\-.]{{0,40}}\\*[\"']?\s{{0,8}}(?::=|=>|[:=])\s{{0,8}})"
    r"(?:(\\*[\"'])(?:(?!\2)(?:\\.|[^\n])){4,2000}\2?|[^\s\"',;<>]{6,})",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(\bauthorization\\*[\"']?\s{0,8}[:=]\s{0,8}\\*[\"']?)(?:\w{1,20}\s+)?[^\s\"',;]{6,}|(\bBearer\s{1,8})[\w.~+/=-]{12,}",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """The text with what looks like a secret replaced."""
    text = _BY_FORM.sub(_MASK, text)
    text = _AUTHORIZATION.sub(lambda found: f"{found[1] or found[2]}{_MASK}", text)
    return _BY_NAME.sub(lambda found: f"{found[1]}{found[2] or ''}{_MASK}{found[2] or ''}", text)


def masked_within(value: Any, *, is_secret: bool = False) -> Any:
    """The same for all texts of a value in the form of JSON. `is_secret`: it goes under the name of a secret."""
    match value:
        case str():
            return _MASK if is_secret and value else masked(value)
        case Mapping():
            return {
                key: masked_within(item, is_secret=is_secret or _SECRET_NAME.search(str(key)) is not None)
                for key, item in value.items()
            }
        case list() | tuple():
            return [masked_within(item, is_secret=is_secret) for item in value]
    return value
