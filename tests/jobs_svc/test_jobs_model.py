"""The queue against a simple model of it: whatever callers and the clock do, in any order and grouped into any batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from jobs_svc.job import NewJob
from jobs_svc.operations import AbortJobs, CreateJobs, Disposition, Failure, Lease, Outcome, Release, Report, Success
from jobs_svc.policy import Policy
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.transaction import Changes, PassTime, ReportJobs
from jobs_svc.turns import Claimer
from svc_common.endings import EndReason, JobState
from svc_common.store import Database, migrate, open_engine

LEASE, RETRY = 100, 10
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
    children: list[str] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.time = 1_000_000
        self.events: dict[str, list[Any]] = {}
        self.database = Database(open_engine(f"sqlite:///{Path(self.folder.name)}/q.sqlite"), read_threads=1)
        migrate(self.database.engine, MIGRATIONS)
        self.store = Store(self.database, POLICY, lambda: self.time, self.committed)
        self.model: dict[str, Known] = {}

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def committed(self, changes: Changes) -> None:
        for event in changes.events:
            self.events.setdefault(event.root_id, []).append(event)

    def do(self, operation: Any) -> Any:
        [result] = self.store.execute([operation])
        return result

    # What callers do

    @rule(tenant=st.sampled_from("ab"), life=st.integers(1, 500), delay=st.integers(0, 100), attempts=st.integers(1, 3))
    def create_root(self, tenant: str, life: int, delay: int, attempts: int) -> None:
        self.create("", tenant, life, delay, attempts)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), life=st.integers(1, 500), attempts=st.integers(1, 3))
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

    @rule(target=leases, wanted=st.integers(1, 3))
    def claim(self, wanted: int) -> tuple[Lease, ...]:
        self.tick(0)
        ready = [
            id_
            for id_, job in self.model.items()
            if job.state is JobState.QUEUED and job.due <= self.time < job.deadline
        ]
        leases = self.do(Claimer("w", frozenset("k"), wanted)).leases
        assert len(leases) == min(wanted, len(ready))
        for lease in leases:
            assert lease.job.id in ready
            job = self.model[lease.job.id]
            job.state, job.attempt, job.token = JobState.RUNNING, job.attempt + 1, job.token + 1
            job.expires = self.time + LEASE
            assert (lease.fencing_token, lease.job.attempt) == (job.token, job.attempt)
        return tuple(leases)

    @rule(
        leases=consumes(leases), outcome=st.sampled_from(["success", "retry", "fail", "release"]), twice=st.booleans()
    )
    def report(self, leases: tuple[Lease, ...], outcome: str, twice: bool) -> None:
        """Current leases are ended, whatever became of the others changes nothing; a repeat is accepted and changes nothing."""
        outcomes: dict[str, Outcome] = {
            "success": Success(b"r"),
            "retry": Failure(EndReason.LLM_ERROR, retryable=True),
            "fail": Failure(EndReason.LLM_ERROR),
            "release": Release(),
        }
        for lease in leases:
            job = self.model[lease.job.id]
            is_current = job.state is JobState.RUNNING and job.token == lease.fencing_token
            news = Report(lease.job.id, lease.fencing_token, outcome=outcomes[outcome])
            [reported] = self.do(ReportJobs([news])).reported
            if not is_current:
                assert reported.disposition in (Disposition.STALE, Disposition.JOB_ENDED)
                continue
            assert reported.disposition is Disposition.ACCEPTED
            self.take(lease.job.id, outcome)
            if twice:
                [reported] = self.do(ReportJobs([news])).reported
                assert reported.disposition is Disposition.ACCEPTED

    def take(self, id_: str, outcome: str) -> None:
        job = self.model[id_]
        if outcome == "release":
            job.state, job.due, job.attempt = JobState.QUEUED, self.time, job.attempt - 1
        elif outcome == "retry" and job.attempt < job.max_attempts and self.time + RETRY < job.deadline:
            job.state, job.due = JobState.QUEUED, self.time + RETRY
        else:
            self.end(id_, JobState.SUCCEEDED if outcome == "success" else JobState.FAILED)

    @rule(leases=leases)
    def heartbeat(self, leases: tuple[Lease, ...]) -> None:
        for lease in leases:
            job = self.model[lease.job.id]
            is_current = job.state is JobState.RUNNING and job.token == lease.fencing_token
            [reported] = self.do(ReportJobs([Report(lease.job.id, lease.fencing_token)])).reported
            assert (reported.disposition is Disposition.ACCEPTED) is is_current
            if is_current:
                job.expires = self.time + LEASE

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.model)))
        before = len(self.live())
        count = self.do(AbortJobs([id_]))
        self.end(id_, JobState.ABORTED)
        assert count == before - len(self.live())

    # What the clock does

    @rule(step=st.integers(1, 150))
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
        job.state = state

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
            assert [event.sequence for event in log] == list(range(1, len(log) + 1))
            assert [event.is_last for event in log[:-1]] == [False] * (len(log) - 1)
            assert log[-1].is_last is self.model[root_id].state.is_terminal


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
