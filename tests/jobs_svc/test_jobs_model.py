"""The queue against a simple model of it: whatever callers and the clock do, in any order and grouped into any batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from sqlalchemy import event

from jobs_svc.job import NewJob
from jobs_svc.operations import AbortJobs, CreateJobs, Disposition, Failure, Lease, Outcome, Release, Report, Success
from jobs_svc.policy import Policy
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.transaction import Changes, PassTime, ReportJobs
from jobs_svc.turns import Claimer
from svc_common.endings import EndReason, JobState
from svc_common.store import Database, migrate, open_engine

LEASE, RETRY = 100, 10
# Mostly long and at once, lest little ever runs; around the delay of a retry, too.
LIVES = st.sampled_from([1_000, 10_000, 300, 50, RETRY, RETRY + 1, 1])
OUTCOMES = st.sampled_from(["success", "retry", "fail", "release"])
DELAYS = st.sampled_from([0, 0, 0, 20])
POLICY = Policy(lease_time=LEASE, retry_delay=RETRY, max_retry_delay=RETRY)


@dataclass
class Known:
    """What the model knows of a job."""

    parent: str
    deadline: int
    due: int
    max_attempts: int
    state: JobState = JobState.QUEUED
    attempt: int = 0
    token: int = 0
    expires: int = 0
    aborted: bool = False
    children: list[str] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.time = 1_000_000
        self.events: dict[str, list[Any]] = {}
        engine = open_engine(f"sqlite:///{Path(self.folder.name)}/q.sqlite")
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        self.database = Database(engine, read_threads=1)
        migrate(self.database.engine, MIGRATIONS)
        self.store = Store(self.database, POLICY, lambda: self.time, self.committed)
        self.model: dict[str, Known] = {}
        self.closed: set[tuple[str, int]] = set()  # leases that their own report ended

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def committed(self, changes: Changes) -> None:
        for entry in changes.events:
            self.events.setdefault(entry.root_id, []).append(entry)

    def do(self, operation: Any) -> Any:
        [result] = self.store.execute([operation])
        return result

    # What callers do

    @rule(tenant=st.sampled_from("ab"), life=LIVES, delay=DELAYS, attempts=st.integers(1, 3))
    def create_root(self, tenant: str, life: int, delay: int, attempts: int) -> None:
        self.create("", tenant, life, delay, attempts)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), life=LIVES, attempts=st.integers(1, 3))
    def create_child(self, data: st.DataObject, life: int, attempts: int) -> None:
        self.create(data.draw(st.sampled_from(sorted(self.live()))), "", life, 0, attempts)

    def create(self, parent: str, tenant: str, life: int, delay: int, attempts: int) -> None:
        id_ = f"j{len(self.model)}"
        deadline, due = self.time + life, self.time + delay
        new = NewJob(id_, "k", deadline, parent, tenant, not_before=due, max_attempts=attempts)
        for is_new in (True, False):
            [created] = self.do(CreateJobs([new]))
            assert created.created is is_new
        if parent:
            deadline = min(deadline, self.model[parent].deadline)
            self.model[parent].children.append(id_)
        self.model[id_] = Known(parent, deadline, due, attempts)

    def ready(self) -> list[str]:
        return [
            id_
            for id_, job in self.model.items()
            if job.state is JobState.QUEUED and job.due <= self.time < job.deadline
        ]

    @precondition(lambda self: self.ready())
    @rule(target=leases, wanted=st.integers(1, 3))
    def claim(self, wanted: int) -> Any:
        return multiple(*self.lease(wanted))

    @precondition(lambda self: self.ready())
    @rule(target=leases, outcome=OUTCOMES)
    def work(self, outcome: str) -> Any:
        """A lease that is used at once; its token may come back later."""
        taken = self.lease(1)
        for lease in taken:
            self.say(lease, outcome)
        return multiple(*taken)

    def lease(self, wanted: int) -> list[Lease]:
        self.tick(0)
        ready = self.ready()
        taken = self.do(Claimer("w", frozenset("k"), wanted)).leases
        assert len(taken) == min(wanted, len(ready))
        for lease in taken:
            assert lease.job.id in ready
            job = self.model[lease.job.id]
            job.state, job.attempt, job.token = JobState.RUNNING, job.attempt + 1, job.token + 1
            job.expires = self.time + LEASE
            assert (lease.fencing_token, lease.job.attempt) == (job.token, job.attempt)
        return list(taken)

    def is_current(self, lease: Lease) -> bool:
        job = self.model[lease.job.id]
        return job.state is JobState.RUNNING and job.token == lease.fencing_token

    @rule(lease=leases, outcome=OUTCOMES)
    def report(self, lease: Lease, outcome: str) -> None:
        self.say(lease, outcome)

    def say(self, lease: Lease, outcome: str) -> None:
        """A current lease is ended, and a repeat of that accepted; whatever is said about another one changes nothing."""
        outcomes: dict[str, Outcome] = {
            "success": Success(b"r"),
            "retry": Failure(EndReason.LLM_ERROR, retryable=True),
            "fail": Failure(EndReason.LLM_ERROR),
            "release": Release(),
        }
        news = Report(lease.job.id, lease.fencing_token, outcome=outcomes[outcome])
        if self.is_current(lease):
            self.closed.add((lease.job.id, lease.fencing_token))
            self.take(lease.job.id, outcome)
            [reported] = self.do(ReportJobs([news])).reported
            assert reported.disposition is Disposition.ACCEPTED
        [repeated] = self.do(ReportJobs([news])).reported
        if (lease.job.id, lease.fencing_token) not in self.closed:
            assert repeated.disposition in (Disposition.STALE, Disposition.JOB_ENDED)
        elif not self.model[lease.job.id].aborted:
            assert repeated.disposition is Disposition.ACCEPTED or self.model[lease.job.id].token > lease.fencing_token

    def take(self, id_: str, outcome: str) -> None:
        job = self.model[id_]
        if outcome == "release":
            job.state, job.due, job.attempt = JobState.QUEUED, self.time, job.attempt - 1
        elif outcome == "retry" and job.attempt < job.max_attempts and self.time + RETRY < job.deadline:
            job.state, job.due = JobState.QUEUED, self.time + RETRY
        else:
            self.end(id_, JobState.SUCCEEDED if outcome == "success" else JobState.FAILED)

    @rule(lease=leases)
    def heartbeat(self, lease: Lease) -> None:
        [reported] = self.do(ReportJobs([Report(lease.job.id, lease.fencing_token)])).reported
        assert (reported.disposition is Disposition.ACCEPTED) is self.is_current(lease)
        if self.is_current(lease):
            self.model[lease.job.id].expires = self.time + LEASE

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.model)))
        before = len(self.live())
        count = self.do(AbortJobs([id_]))
        self.end(id_, JobState.ABORTED)
        assert count == before - len(self.live())

    # What the clock does

    @precondition(lambda self: self.model)
    @rule(step=st.sampled_from([1, 1, RETRY, LEASE]))
    def wait(self, step: int) -> None:
        self.tick(step)

    def tick(self, step: int) -> None:
        self.time += step
        self.do(PassTime(1000))
        for id_ in self.live():
            job = self.model[id_]
            if job.state.is_terminal:
                continue
            if job.deadline <= self.time:
                self.end(id_, JobState.ABORTED)
            elif job.state is JobState.RUNNING and job.expires <= self.time:
                if job.attempt < job.max_attempts:
                    job.state, job.due = JobState.QUEUED, self.time
                else:
                    self.end(id_, JobState.FAILED)

    # The model

    def live(self) -> list[str]:
        return [id_ for id_, job in self.model.items() if not job.state.is_terminal]

    def end(self, id_: str, state: JobState) -> None:
        job = self.model[id_]
        if job.state.is_terminal:
            return
        for child in job.children:
            self.end(child, JobState.ABORTED)
        job.state, job.aborted = state, state is JobState.ABORTED

    def stored(self, work: Callable[[Any], Any]) -> Any:
        return self.database.read_here(work)

    @invariant()
    def jobs_stand_as_in_the_model(self) -> None:
        query = (
            "SELECT j.id, coalesce(CASE l.phase WHEN 3 THEN 2 WHEN 1 THEN 1 WHEN 2 THEN 1 END, j.state),"
            " coalesce(l.attempt, j.attempt), coalesce(l.fencing_token, j.fencing_token)"
            " FROM jobs j LEFT JOIN live l ON l.id = j.id"
        )
        stored = self.stored(lambda connection: {tuple(row) for row in connection.exec_driver_sql(query)})
        assert stored == {(id_, int(job.state), job.attempt, job.token) for id_, job in self.model.items()}

    @invariant()
    def logs_have_no_gaps_and_end_once_with_their_root(self) -> None:
        for root_id, log in self.events.items():
            assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
            assert not any(entry.is_last for entry in log[:-1])
            assert log[-1].is_last is self.model[root_id].state.is_terminal


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
