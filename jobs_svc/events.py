"""The event log of a root job: what an entry holds, and how pieces of text are gathered, merged and cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from svc_common.endings import EndReason, JobState

MAX_TEXT_BYTES = 65536  # of one TextOutput, as the contract says; merged entries keep to it as well


class StateChange(NamedTuple):
    """A job's change of state."""

    kind: str
    state: JobState
    reason: EndReason = EndReason.NONE
    is_partial: bool = False
    attempt: int = 0
    message: str = ""


class Text(NamedTuple):
    """A piece of text that a job put out on one of its channels."""

    channel: str
    text: str


class Note(NamedTuple):
    """An event that only the job's creator understands."""

    type: str
    data: bytes


Body = StateChange | Text | Note


class Event(NamedTuple):
    """An entry of a root's log. One that stands for several positions has the length of each one's text in `pieces`."""

    root_id: str
    sequence: int
    time: int
    job_id: str
    body: Body
    first_sequence: int
    pieces: tuple[int, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether the log ends here: the root itself has ended."""
        return self.job_id == self.root_id and isinstance(self.body, StateChange) and self.body.state.is_terminal


def gathered(bodies: Iterable[Text | Note]) -> list[Text | Note]:
    """The bodies of one report, with neighbouring pieces of one channel made one."""
    out: list[Text | Note] = []
    for body in bodies:
        last = out[-1] if out else None
        if isinstance(last, Text) and isinstance(body, Text) and last.channel == body.channel:
            text = last.text + body.text
            if len(text.encode()) <= MAX_TEXT_BYTES:
                out[-1] = Text(body.channel, text)
                continue
        out.append(body)
    return out


def merged(events: Sequence[Event]) -> list[Event]:
    """A stretch of a log with runs of text of one job and channel made one entry each. Only runs without a gap merge."""
    out: list[Event] = []
    run: list[Event] = []
    size = 0
    for event in events:
        length = len(event.body.text.encode()) if isinstance(event.body, Text) else 0
        if run and _continues(run[-1], event) and size + length <= MAX_TEXT_BYTES:
            run.append(event)
            size += length
            continue
        out.extend(_one(run))
        run, size = [event], length
    out.extend(_one(run))
    return out


def _continues(last: Event, event: Event) -> bool:
    return (
        isinstance(last.body, Text)
        and isinstance(event.body, Text)
        and last.body.channel == event.body.channel
        and last.job_id == event.job_id
        and last.sequence + 1 == event.first_sequence
    )


def _one(run: list[Event]) -> list[Event]:
    if len(run) < 2:
        return run
    texts = [event.body.text for event in run if isinstance(event.body, Text)]
    pieces = tuple(length for event in run for length in _pieces(event))
    body = Text(run[0].body.channel, "".join(texts)) if isinstance(run[0].body, Text) else run[0].body
    return [run[-1]._replace(body=body, first_sequence=run[0].first_sequence, pieces=pieces)]


def _pieces(event: Event) -> tuple[int, ...]:
    if event.pieces or not isinstance(event.body, Text):
        return event.pieces
    return (len(event.body.text),)


def after(event: Event, sequence: int) -> Event | None:
    """What of the entry a watcher has not seen who has seen everything up to `sequence`; None when it has seen all of it."""
    if event.sequence <= sequence:
        return None
    if event.first_sequence > sequence or not isinstance(event.body, Text):
        return event
    seen = sequence - event.first_sequence + 1
    text = event.body.text[sum(event.pieces[:seen]) :]
    return event._replace(body=Text(event.body.channel, text), first_sequence=sequence + 1, pieces=event.pieces[seen:])
