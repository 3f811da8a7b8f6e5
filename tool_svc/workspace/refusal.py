"""Why a file is not read, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RefusalCode(StrEnum):
    """Reasons not to read a path; the values go to callers."""

    OUTSIDE_WORKSPACE = "OUTSIDE_WORKSPACE"
    OUT_OF_SCOPE = "OUT_OF_SCOPE"
    IGNORED = "IGNORED"
    BINARY = "BINARY"
    SECRET = "SECRET"
    TOO_LARGE = "TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    NOT_A_FILE = "NOT_A_FILE"
    UNREADABLE = "UNREADABLE"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason, and one sentence about it that repeats nothing of the file's content."""

    code: RefusalCode
    message: str


class RefusedError(Exception):
    """A path that is not read. Data for the caller, not a failure of the call."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message)


NOT_FOUND = Refusal(RefusalCode.NOT_FOUND, "there is no such file")
IGNORED = Refusal(RefusalCode.IGNORED, "excluded by an ignore rule of the repository")
OUTSIDE = Refusal(RefusalCode.OUTSIDE_WORKSPACE, "the path leaves the workspace")
OUT_OF_SCOPE = Refusal(RefusalCode.OUT_OF_SCOPE, "outside the scope of this request")
BINARY = Refusal(RefusalCode.BINARY, "not a text file")
SECRET = Refusal(RefusalCode.SECRET, "may hold credentials")
NOT_A_FILE = Refusal(RefusalCode.NOT_A_FILE, "not a regular file")
LINK = Refusal(RefusalCode.NOT_A_FILE, "a symbolic link; links are not followed, ask for the path of the file itself")
UNREADABLE = Refusal(RefusalCode.UNREADABLE, "the file cannot be opened")


def refused(refusal: Refusal) -> RefusedError:
    """The error that carries `refusal`."""
    return RefusedError(refusal.code, refusal.message)


def too_large(limit: int) -> Refusal:
    """The refusal of a file with more than `limit` bytes."""
    return Refusal(RefusalCode.TOO_LARGE, f"larger than {limit} bytes")
