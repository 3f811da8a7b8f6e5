"""What a request's event log says so far: who has ended, and what was put out."""

from __future__ import annotations

from dbp.jobs.v1 import jobs_pb2

from svc_common.endings import JobState
from svc_common.notes import NoteType
from svc_common.texts import shortened

# What is kept of the text of one job, for the case that it leaves no result.
_TEXT_BYTES = 16_000


class Digest:
    """Takes the events of one root in order."""

    def __init__(self, root_id: str) -> None:
        self._root_id = root_id
        self._texts: dict[str, str] = {}
        self._begun_anew: set[str] = set()
        self.last_sequence = 0
        self.answer = ""
        """What the caller has been shown of the answer."""
        self.ended: set[str] = set()
        """Jobs that have ended, the root included."""

    def take(self, event: jobs_pb2.Event) -> None:
        self.last_sequence = event.sequence
        match event.WhichOneof("body"):
            case "state_change":
                if JobState(event.state_change.state).is_terminal:
                    self.ended.add(event.job_id)
                else:
                    self._begun_anew.add(event.job_id)
            case "text" if event.job_id == self._root_id:
                self.answer += event.text.text
            case "text":
                # Another attempt speaks from the beginning; until it does, what the one before had said is what there is.
                said = "" if event.job_id in self._begun_anew else self._texts.get(event.job_id, "")
                self._begun_anew.discard(event.job_id)
                if len(said) <= _TEXT_BYTES:
                    self._texts[event.job_id] = said + event.text.text
            case "note" if event.note.type == NoteType.RESTART:
                self.answer = ""

    def text(self, job_id: str) -> str:
        """The beginning of what a tool job has put out, with a mark where it is cut."""
        return shortened(self._texts.get(job_id, ""), _TEXT_BYTES)
