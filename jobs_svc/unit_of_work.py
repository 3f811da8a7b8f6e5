"""One transaction's view of the queue, in memory: what was loaded, what became of it, and what must be written.

The store loads what the operations of a batch name, the operations change it here by the queue's rules, and the store writes the
differences. Nothing here does I/O.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from jobs_svc.events import Body, Event, StateChange, Text
from jobs_svc.job import AttemptError, Ended, Ending, Job, LiveJob, Phase, Stop
from jobs_svc.policy import Policy
from svc_common.endings import EndReason, JobState


@dataclass
class UnitOfWork:
    """`live` are unfinished jobs, `jobs` the full records that operations asked for (finished ones always among them)."""

    now: int
    policy: Policy
    live: dict[str, LiveJob] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    created: list[Job] = field(default_factory=list)
    # Ids of live jobs that are not in the store yet, that changed, and that must leave it.
    unwritten: set[str] = field(default_factory=set)
    gone: list[str] = field(default_factory=list)
    changed: dict[str, LiveJob] = field(default_factory=dict)
    ended: dict[str, tuple[LiveJob, Ending]] = field(default_factory=dict)
    checkpoints: dict[str, bytes] = field(default_factory=dict)
    attempt_errors: list[tuple[str, AttemptError]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    # Unfinished jobs by kind and phase: what this transaction adds and takes away.
    moved: Counter[tuple[str, Phase]] = field(default_factory=Counter)
    # Jobs that this transaction made ready and nobody has leased in it, by id; and the ends of leases by kind of job. Unlike
    # `moved` these are not netted: another job that was leased meanwhile makes up for neither.
    readied: dict[str, LiveJob] = field(default_factory=dict)
    freed: Counter[str] = field(default_factory=Counter)

    def find(self, job_id: str) -> LiveJob | Ended | None:
        """A job as it stands now; None when there is none or nobody named it."""
        if live := self.live.get(job_id):
            return live
        if job_id in self.ended:
            job, ending = self.ended[job_id]
            return Ended(job.fencing_token, ending.token)
        if record := self.jobs.get(job_id):
            return Ended(record.fencing_token, record.end_token)
        return None

    def load(self, jobs: Iterable[LiveJob]) -> None:
        for job in jobs:
            if job.id not in self.live and job.id not in self.ended:
                self.live[job.id] = job
                if job.parent_id:
                    self.children[job.parent_id].append(job.id)

    def add(self, job: Job, live: LiveJob) -> None:
        """Takes in a new job."""
        self.created.append(job)
        self.jobs[job.id] = job
        self.unwritten.add(job.id)
        self.load((live,))
        self.moved[job.kind, live.phase] += 1
        if live.phase is Phase.READY:
            self.readied[live.id] = live

    def append(self, job: LiveJob, body: Body) -> None:
        """Appends an event about an unfinished job to the log of its root."""
        root = self.live[job.root_id]
        root.last_sequence += 1
        if isinstance(body, Text):
            root.has_text = True
        self.changed[root.id] = root
        self.events.append(Event(root.id, root.last_sequence, self.now, job.id, body, root.last_sequence))

    def move(self, job: LiveJob, phase: Phase) -> None:
        kind = job.kind
        self.moved[kind, phase] += 1
        self._leave(job, kind)
        job.phase = phase
        self.changed[job.id] = job
        if phase is Phase.READY:
            self.readied[job.id] = job

    def _leave(self, job: LiveJob, kind: str) -> None:
        """Counts a job out of its phase."""
        self.moved[kind, job.phase] -= 1
        self.readied.pop(job.id, None)
        if job.phase is Phase.RUNNING:
            self.freed[kind] += 1

    def lease(self, job: LiveJob, worker_id: str, claim_id: str) -> None:
        """Gives a worker the right to work on a queued job."""
        self.move(job, Phase.RUNNING)
        job.worker_id = worker_id
        job.claim_id = claim_id
        job.fencing_token += 1
        job.attempt += 1
        job.report_number = 0
        job.start_time = self.now
        self.renew(job)
        self.append(job, StateChange(job.kind, JobState.RUNNING, attempt=job.attempt))

    def renew(self, job: LiveJob) -> None:
        """Lets a running job's lease last as long as a new one."""
        job.lease_expire_time = self.now + self.policy.lease_time
        self.changed[job.id] = job

    def save(self, job: LiveJob, checkpoint: bytes) -> None:
        """Replaces a job's checkpoint."""
        self.checkpoints[job.id] = checkpoint
        job.checkpoint_bytes = len(checkpoint)
        if record := self.jobs.get(job.id):
            record.checkpoint = checkpoint

    def requeue(self, job: LiveJob, delay: int, reason: EndReason, message: str = "") -> None:
        """Takes a running job's lease away and lets it wait again."""
        attempt = job.attempt
        job.due_time = self.now + delay
        job.worker_id = job.claim_id = ""
        job.lease_expire_time = 0
        self.move(job, Phase.DELAYED if delay > 0 else Phase.READY)
        self.append(job, StateChange(job.kind, JobState.QUEUED, reason, attempt=attempt, message=message))

    def fail(self, job: LiveJob, reason: EndReason, message: str) -> None:
        """Records that the current attempt failed."""
        self.attempt_errors.append((job.id, AttemptError(job.attempt, reason, message, self.now)))

    def end(self, job: LiveJob, ending: Ending) -> None:
        """Ends a job, its unfinished descendants first, so that a root's end is the last entry of its log."""
        cut_short = ending.reason if ending.state is JobState.ABORTED else EndReason.CANCELLED
        children = [child for id_ in self.children.get(job.id, ()) if (child := self.live.get(id_))]
        for child in sorted(children, key=attrgetter("create_time")):
            self.end(child, Ending(JobState.ABORTED, cut_short, message="the job that asked for it has ended"))
        if job.phase is Phase.RUNNING and not ending.token:
            self.stop(job, ending.reason)
        self.append(
            job,
            StateChange(job.kind, ending.state, ending.reason, ending.is_partial, job.attempt, ending.message),
        )
        self._leave(job, job.kind)
        del self.live[job.id]
        self.changed.pop(job.id, None)
        self.gone.append(job.id)
        self.ended[job.id] = (job, ending)
        if record := self.jobs.get(job.id):
            close(record, job, ending, self.now)

    def stop(self, job: LiveJob, reason: EndReason) -> None:
        """Lets the worker know that its lease is over."""
        self.stops.append(Stop(job.worker_id, job.id, job.fencing_token, reason, self.now))


def close(record: Job, job: LiveJob, ending: Ending, now: int) -> None:
    """Writes a job's end into its full record."""
    record.stands_as(job)
    record.state = ending.state
    record.end_reason = ending.reason
    record.is_partial = ending.is_partial
    record.result = ending.result
    record.error_message = ending.message
    record.end_time = now
    record.end_token = ending.token
