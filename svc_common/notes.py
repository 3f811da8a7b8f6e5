"""The words of event logs: types of notes and channels of text, for those who write and those who read them."""

from __future__ import annotations

from enum import StrEnum


class NoteType(StrEnum):
    """What a note's data is: a message of the coordinator's contract, or of the tools' for PROGRESS; nothing for RESTART."""

    PLAN = "plan"
    SPEND = "spend"
    WARNING = "warning"
    RESTART = "restart"
    PROGRESS = "progress"


class Channel(StrEnum):
    ANSWER = "answer"
    PARTIAL = "partial"
