"""From bytes to text: what is binary, what looks like key material, and decoding."""

from __future__ import annotations

import re

from charset_normalizer import from_bytes

from tool_svc.workspace.refusal import BINARY, SECRET, refused

SNIFFED_BYTES = 64 * 1024
GUESSED_BYTES = 4 * 1024

# Each begins with a literal, so that the search for it runs at memory speed.
_KEY_MATERIAL = tuple(
    re.compile(pattern)
    for pattern in (
        rb"PRIVATE KEY-----(?:\\[nr]|[\s\"'+#*/:,])*(?:[A-Za-z0-9+/=]{16}|Proc-Type)",
        rb"A(?:(?:KIA|SIA)(?<![A-Za-z0-9/+].{4})[0-9A-Z]{16}(?![A-Za-z0-9/+])|Iza(?<!\w.{4})[A-Za-z0-9_\-]{35})",
        rb"aws_secret_access_key[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
        rb"g(?:h[opsu]_[A-Za-z0-9]{36}|ithub_pat_[A-Za-z0-9_]{60}|lpat-[A-Za-z0-9_\-]{20})",
        rb"xox[abeoprs]-[A-Za-z0-9\-]{24}",
        rb"k_live_[A-Za-z0-9]{20}",
        rb"sk-(?:ant|proj)-[A-Za-z0-9_\-]{32}",
    )
)


def text_of(content: bytes, *, cut: bool = False) -> str:
    """Text of a file's content.

    `cut` says that the content was cut at a byte count, so a character split at the end is dropped. UTF-8 when it is
    that, else the most likely encoding, with a replacement character for what does not fit. Raises RefusedError: BINARY
    when it is not text, SECRET when it holds what looks like a key.
    """
    if is_binary(content):
        raise refused(BINARY)
    text = _decode(content, cut)
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    if holds_key_material(text.encode("utf-8", "replace") if wide else content):
        raise refused(SECRET)
    return text


def holds_key_material(content: bytes) -> bool:
    """Whether content looks like a private key or an access token.

    Markers alone are not enough, because code that looks for keys names them: what follows a marker must look like a
    key.
    """
    return any(pattern.search(content) is not None for pattern in _KEY_MATERIAL)


def is_binary(content: bytes) -> bool:
    """Whether content is not text: a NUL byte in its head, unless a byte order mark says that it is UTF-16."""
    return b"\0" in content[:SNIFFED_BYTES] and not content.startswith((b"\xff\xfe", b"\xfe\xff"))


def _decode(content: bytes, cut: bool) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if cut and error.start >= len(content) - 3 and error.reason == "unexpected end of data":
            return content[: error.start].decode("utf-8-sig")
        start = error.start
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    guess = from_bytes(content[max(0, start - GUESSED_BYTES) : start + GUESSED_BYTES]).best()
    if guess is None:
        raise refused(BINARY)
    return content.decode(guess.encoding, "replace")
