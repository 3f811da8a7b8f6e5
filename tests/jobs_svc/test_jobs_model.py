"""The queue against a simple model of it: whatever callers and the clock do, in any order and grouped into any batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import event

from jobs_svc.job import NewJob
from jobs_svc.operations import (
    AbortJobs,
    Created,
    CreateJobs,
    Disposition,
    Failure,
    Lease,
    Outcome,
    Release,
    Report,
    Success,
)
from jobs_svc.policy import Policy
from jobs_svc.store import MIGRATIONS, Store
from jobs_svc.transaction import Changes, PassTime, ReportJobs, Taken
from jobs_svc.turns import Claimer
from svc_common.endings import EndReason, JobState
from svc_common.errors import ErrorReason, ServiceError
from svc_common.store import Database, migrate, open_engine

LEASE, RETRY = 100, 10
# Mostly long and at once, lest little ever runs; around the delay of a retry, too.
LIVES = st.sampled_from([1_000, 10_000, 300, 50, RETRY, RETRY + 1, 1])
OUTCOMES: dict[str, Outcome] = {
    "success": Success(b"r"),
    "retry": Failure(EndReason.LLM_ERROR, retryable=True),
    "fail": Failure(EndReason.LLM_ERROR),
    "release": Release(),
}
DELAYS = st.sampled_from([0, 0, 0, 20])
POLICY = Policy(lease_time=LEASE, retry_delay=RETRY, max_retry_delay=RETRY)


@dataclass
class Known:
    """What the model knows of a job. `due` is when its delay ends, 0 when it is over."""

    deadline: int
    due: int
    max_attempts: int
    state: JobState = JobState.QUEUED
    attempt: int = 0
    token: int = 0
    closed: int = 0  # the lease that its own report gave up, or ended the job with
    claim: str = ""
    expires: int = 0
    checkpoint: bytes = b""
    children: list[str] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.state.is_terminal


class QueueMachine(RuleBasedStateMachine):
    """What callers do waits in a batch until it is committed; only then the model follows, operation by operation."""

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
        self.asked: list[NewJob] = []
        self.model: dict[str, Known] = {}
        self.leases: list[Lease] = []
        self.claims: list[Claimer] = []
        self.batch: list[tuple[Any, Callable[[Any], None]]] = []

    def teardown(self) -> None:
        self.commit()
        self.database.close()
        self.folder.cleanup()

    def committed(self, changes: Changes) -> None:
        for entry in changes.events:
            self.events.setdefault(entry.root_id, []).append(entry)

    @rule()
    def commit(self) -> None:
        batch, self.batch = self.batch, []
        results = self.store.execute([operation for operation, _ in batch])
        claims: list[tuple[Claimer, Taken]] = []
        for (operation, expect), result in zip(batch, results, strict=True):
            expect(result)
            if isinstance(operation, Claimer):
                claims.append((operation, result))
        self.check_claims(claims)  # they come after all else

    # What callers do

    @rule(tenant=st.sampled_from("ab"), life=LIVES, delay=DELAYS, attempts=st.integers(1, 3))
    def create_root(self, tenant: str, life: int, delay: int, attempts: int) -> None:
        self.create("", tenant, life, delay, attempts)

    @rule(life=LIVES, generations=st.integers(2, 4))
    def create_line(self, life: int, generations: int) -> None:
        """A root and its descendants, each the only child of the one before."""
        parent = ""
        for _ in range(generations):
            self.create(parent, "" if parent else "a", life, 0, 1)
            parent = self.asked[-1].id

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), life=LIVES, attempts=st.integers(1, 3))
    def create_child(self, data: st.DataObject, life: int, attempts: int) -> None:
        self.create(data.draw(st.sampled_from(self.asked)).id, "", life, 0, attempts)

    def create(self, parent: str, tenant: str, life: int, delay: int, attempts: int) -> None:
        deadline, due = self.time + life, self.time + delay
        new = NewJob(f"j{len(self.asked)}", "k", deadline, parent, tenant, not_before=due, max_attempts=attempts)
        self.asked.append(new)
        self.batch.append((CreateJobs([new]), lambda result: self.check_creation(new, result)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def create_again(self, data: st.DataObject) -> None:
        new = data.draw(st.sampled_from(self.asked))
        self.batch.append((CreateJobs([new]), lambda result: self.check_creation(new, result)))

    def check_creation(self, new: NewJob, result: Any) -> None:
        parent = self.model.get(new.parent_id)
        if new.id in self.model:
            [created] = result
            assert not created.created
        elif new.deadline <= self.time:
            assert isinstance(result, ServiceError)
        elif new.parent_id and (parent is None or parent.has_ended):
            assert result.reason is (ErrorReason.JOB_ENDED if parent else ErrorReason.JOB_NOT_FOUND)
        else:
            [created] = result
            assert isinstance(created, Created)
            assert created.created
            due = new.not_before if new.not_before > self.time else 0
            deadline = min(new.deadline, parent.deadline) if parent else new.deadline
            self.model[new.id] = Known(deadline, due, new.max_attempts)
            if parent:
                parent.children.append(new.id)

    @rule(wanted=st.integers(1, 3))
    def claim(self, wanted: int) -> None:
        self.claims.append(Claimer("w", frozenset("k"), wanted, f"c{len(self.claims)}"))
        self.batch.append((self.claims[-1], lambda result: None))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def claim_again(self, data: st.DataObject) -> None:
        """A call whose reply was lost, perhaps long ago."""
        self.batch.append((data.draw(st.sampled_from(self.claims)), lambda result: None))

    def check_claims(self, claims: Sequence[tuple[Claimer, Taken]]) -> None:
        ready = {id_ for id_, job in self.model.items() if self.is_ready(job)}
        held = {id_: job.claim for id_, job in self.model.items() if job.state is JobState.RUNNING}
        taken: set[str] = set()
        wanted = 0
        seen: dict[str, list[str]] = {}
        for claimer, result in claims:
            ids = [lease.job.id for lease in result.leases]
            if claimer.claim_id in seen:  # a call and its repeat in one batch
                assert ids == seen[claimer.claim_id]
            elif before := {id_ for id_, claim in held.items() if claim == claimer.claim_id}:
                assert set(ids) == before
                for id_ in ids:
                    self.model[id_].expires = self.time + LEASE
            else:
                assert len(ids) <= claimer.max_jobs
                assert taken.isdisjoint(ids)
                taken.update(ids)
                wanted += claimer.max_jobs
                for id_ in ids:
                    self.lease(self.model[id_], claimer.claim_id)
            seen[claimer.claim_id] = ids
            for lease in result.leases:
                job = self.model[lease.job.id]
                assert (lease.fencing_token, lease.job.attempt, lease.job.checkpoint) == (
                    job.token,
                    job.attempt,
                    job.checkpoint,
                )
            self.leases += result.leases
        assert taken <= ready
        assert len(taken) == min(wanted, len(ready))

    def is_ready(self, job: Known) -> bool:
        return job.state is JobState.QUEUED and not job.due and self.time < job.deadline

    def lease(self, job: Known, claim_id: str) -> None:
        job.state, job.attempt, job.token = JobState.RUNNING, job.attempt + 1, job.token + 1
        job.claim, job.expires = claim_id, self.time + LEASE

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), outcome=st.sampled_from(["", *OUTCOMES]), checkpoint=st.sampled_from([b"", b"1", b"2"]))
    def report(self, data: st.DataObject, outcome: str, checkpoint: bytes) -> None:
        """A current lease is renewed or ended, and a repeat of that accepted; what is said about another one changes nothing."""
        lease = data.draw(st.sampled_from(self.leases[-10:]))
        news = Report(lease.job.id, lease.fencing_token, checkpoint=checkpoint, outcome=OUTCOMES.get(outcome))
        self.batch.append((ReportJobs([news]), lambda taken: self.check_report(lease, outcome, checkpoint, taken)))

    def check_report(self, lease: Lease, outcome: str, checkpoint: bytes, taken: Taken) -> None:
        [reported] = taken.reported
        id_, token = lease.job.id, lease.fencing_token
        job = self.model[id_]
        if job.state is JobState.RUNNING and job.token == token:
            assert reported.disposition is Disposition.ACCEPTED
            job.checkpoint, job.expires = checkpoint or job.checkpoint, self.time + LEASE
            if outcome:
                job.closed = token
                self.close(id_, outcome)
        elif outcome and token == job.closed:
            assert reported.disposition is Disposition.ACCEPTED
        else:
            is_last = job.has_ended and job.token == token
            assert reported.disposition is (Disposition.JOB_ENDED if is_last else Disposition.STALE)

    def close(self, id_: str, outcome: str) -> None:
        job = self.model[id_]
        if outcome == "release":
            job.state, job.attempt = JobState.QUEUED, job.attempt - 1
        elif outcome == "retry" and job.attempt < job.max_attempts and self.time + RETRY < job.deadline:
            job.state, job.due = JobState.QUEUED, self.time + RETRY
        else:
            self.end(id_, JobState.SUCCEEDED if outcome == "success" else JobState.FAILED)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(self.asked)).id
        self.batch.append((AbortJobs([id_]), lambda result: self.check_abort(id_, result)))

    def check_abort(self, id_: str, result: Any) -> None:
        if id_ not in self.model:
            assert result.reason is ErrorReason.JOB_NOT_FOUND
            return
        before = sum(job.has_ended for job in self.model.values())
        self.end(id_, JobState.ABORTED)
        assert result == sum(job.has_ended for job in self.model.values()) - before

    # What the clock does

    @rule(step=st.sampled_from([1, 1, RETRY, LEASE]))
    def wait(self, step: int) -> None:
        self.commit()
        self.time += step

    @rule()
    def sweep(self) -> None:
        """The sweeper knows what was due when it looked; some of it may end before its turn comes."""
        ids = [id_ for id_, job in self.model.items() if not job.has_ended]
        self.batch.append((PassTime(ids), lambda result: self.pass_time(ids)))

    def pass_time(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            job = self.model[id_]
            if job.has_ended:
                continue
            if job.deadline <= self.time:
                self.end(id_, JobState.ABORTED)
            elif job.state is JobState.QUEUED and job.due <= self.time:
                job.due = 0
            elif job.state is JobState.RUNNING and job.expires <= self.time:
                if job.attempt < job.max_attempts:
                    job.state = JobState.QUEUED
                else:
                    self.end(id_, JobState.FAILED)

    # The model

    def end(self, id_: str, state: JobState) -> None:
        job = self.model[id_]
        if job.has_ended:
            return
        for child in job.children:
            self.end(child, JobState.ABORTED)
        job.state = state
        if job.closed != job.token or state is JobState.ABORTED:
            job.closed = 0  # it ended from outside

    @invariant()
    def jobs_stand_as_in_the_model(self) -> None:
        query = (
            "SELECT j.id, coalesce(CASE l.phase WHEN 3 THEN 2 WHEN 1 THEN 1 WHEN 2 THEN 1 END, j.state),"
            " coalesce(l.attempt, j.attempt), coalesce(l.fencing_token, j.fencing_token), j.checkpoint"
            " FROM jobs j LEFT JOIN live l ON l.id = j.id"
        )
        stored = self.database.read_here(lambda connection: {tuple(row) for row in connection.exec_driver_sql(query)})
        assert stored == {
            (id_, int(job.state), job.attempt, job.token, job.checkpoint) for id_, job in self.model.items()
        }

    @invariant()
    def logs_have_no_gaps_and_end_once_with_their_root(self) -> None:
        for root_id, log in self.events.items():
            assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
            assert not any(entry.is_last for entry in log[:-1])
            assert log[-1].is_last is self.model[root_id].has_ended


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
