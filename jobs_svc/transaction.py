"""One write transaction: loads what a batch of operations names, lets the queue's rules decide, writes the differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sqlalchemy import Connection, insert, select

from jobs_svc import operations, rows, tables
from jobs_svc.audit import AppendAudit, AuditHead
from jobs_svc.events import Event
from jobs_svc.job import Phase, Stop, parse_lane
from jobs_svc.operations import AbortJobs, CreateJobs, Lease, Report, Reported, RootCounts
from jobs_svc.policy import Policy
from jobs_svc.statements import NEVER, Statements
from jobs_svc.turns import Claimer, Running, allot
from jobs_svc.unit_of_work import UnitOfWork
from svc_common.errors import ErrorReason, ServiceError


@dataclass(frozen=True, slots=True)
class ReportJobs:
    """The reports of one call, each answered on its own, and then what the worker claims."""

    reports: Sequence[Report]
    claimer: Claimer | None = None


@dataclass(slots=True)
class Taken:
    """What came of a worker's reports and of its claim."""

    reported: list[Reported] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PassTime:
    """Does what is due to at most `limit` jobs. Its result is how many were due."""

    limit: int


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Work on finished roots that no rule of the queue decides: compaction and retention."""

    run: Callable[[Connection], Any]


@dataclass(frozen=True, slots=True)
class Recount:
    """Counts the unfinished jobs anew; the counts go out with the changes."""


Operation = CreateJobs | ReportJobs | AbortJobs | AppendAudit | PassTime | Upkeep | Recount | Claimer


@dataclass(slots=True)
class Changes:
    """What a committed transaction changed, for those who wait in memory."""

    events: list[Event] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    moved: Counter[tuple[str, Phase]] = field(default_factory=Counter)
    # Unfinished jobs by kind and phase, before `moved`, when somebody asked.
    counts: Counter[tuple[str, Phase]] | None = None
    # It is not known what was committed, if anything; nothing else is set.
    in_doubt: bool = False
    # Earliest time at which a job that was written is due for something.
    next_wake: int = NEVER


def _claimer_of(op: Operation) -> Claimer | None:
    return op if isinstance(op, Claimer) else op.claimer if isinstance(op, ReportJobs) else None


class Transaction:
    """Use once, within a database transaction that is committed after `run` has returned and rolled back when it raises."""

    def __init__(
        self, connection: Connection, statements: Statements, policy: Policy, now: int, times: count[int]
    ) -> None:
        self._connection = connection
        self._sql = statements
        self._bulk = statements.bulk
        self._policy = policy
        self._times = times
        self._uow = UnitOfWork(now, policy)
        self._heads: dict[str, AuditHead] = {}
        self._roots = RootCounts(Counter())
        self.changes = Changes()

    def run(self, ops: Sequence[Operation]) -> list[Any]:
        """One result per operation, in order; a ServiceError is the answer to that operation alone."""
        self._load(ops)
        results: list[Any] = [self._apply(op) for op in ops]
        # Claims come last: what the other operations of the batch make ready can be leased at once.
        claims = [(claimer, result) for op, result in zip(ops, results, strict=True) if (claimer := _claimer_of(op))]
        if claims:
            self._write_live()
            all_leases = self._claim([claimer for claimer, _ in claims])
            for (_, result), leases in zip(claims, all_leases, strict=True):
                result.leases.extend(leases)
        with self._bulk.together(self._connection):
            self._write_live()
            self._write_the_rest()
        return results

    def _apply(self, op: Operation) -> Any:
        try:
            match op:
                case Claimer():
                    return Taken()
                case ReportJobs():
                    return Taken([operations.report(self._uow, report) for report in op.reports])
                case CreateJobs():
                    return operations.create(self._uow, op, self._roots, self._times)
                case AbortJobs():
                    return operations.abort(self._uow, op)
                case AppendAudit():
                    return self._append_audit(op)
                case PassTime():
                    return self._pass_time(op)
                case Upkeep():
                    return op.run(self._connection)
                case Recount():
                    return self._recount()
        except ServiceError as error:
            return error

    # Loading

    def _load(self, ops: Sequence[Operation]) -> None:
        named: set[str] = set()
        ending: set[str] = set()
        creating: set[str] = set()
        limited: set[str] = set()
        audited: set[str] = set()
        for op in ops:
            match op:
                case ReportJobs():
                    named.update(report.job_id for report in op.reports)
                    ending.update(report.job_id for report in op.reports if report.outcome is not None)
                case CreateJobs():
                    creating.update(job.id for job in op.jobs)
                    named.update(job.parent_id for job in op.jobs if job.parent_id)
                    if op.max_unfinished_roots or op.max_unfinished_roots_of_tenant:
                        limited.update(job.kind for job in op.jobs if not job.parent_id)
                case AbortJobs():
                    named.update(op.job_ids)
                    ending.update(op.job_ids)
                case AppendAudit():
                    audited.add(op.root_id)
        if creating:
            self._load_jobs(creating)
            named.update(id_ for id_ in creating if id_ in self._uow.jobs)
        if named:
            self._load_trees(named, ending)
        self._load_jobs((named | audited) - self._uow.live.keys())
        if limited:
            found = self._read(self._sql.unfinished_roots, {"kinds": self._bulk.list_of(limited)})
            for lane, number in found:
                kind, _, tenant = parse_lane(lane)
                self._roots.roots[kind, tenant] += number
        if audited:
            self._load_heads(audited)

    def _read(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self._bulk.read(self._connection, statement, parameters)

    def _load_jobs(self, ids: Iterable[str]) -> None:
        if missing := set(ids) - self._uow.jobs.keys():
            found = self._read(self._sql.jobs, {"ids": self._bulk.list_of(missing)})
            self._uow.jobs.update((job.id, job) for job in map(rows.job_of, found))

    def _load_trees(self, named: set[str], ending: set[str]) -> None:
        """The named unfinished jobs, their roots, and all descendants of those that may end."""
        uow = self._uow
        parents = ending
        while named or parents:
            parameters = {"ids": self._bulk.list_of(named), "parents": self._bulk.list_of(parents)}
            before = uow.live.keys() | set()
            if parents:
                uow.load(map(rows.live_job, self._read(self._sql.live_with_children, parameters)))
            else:
                uow.load(map(rows.live_job, self._read(self._sql.live, {"ids": parameters["ids"]})))
            new = uow.live.keys() - before
            parents = {id_ for id_ in new if uow.live[id_].parent_id in ending or uow.live[id_].parent_id in parents}
            named = {uow.live[id_].root_id for id_ in new} - uow.live.keys()

    def _load_claimed(self, ids: set[str]) -> None:
        """What workers are given with the leases of these jobs, and the roots of them."""
        uow = self._uow
        if missing := ids - (uow.live.keys() & uow.jobs.keys()):
            found = self._read(self._sql.claimed, {"ids": self._bulk.list_of(missing)})
            for live, job in map(rows.claimed_job, found):
                uow.load((live,))
                uow.jobs[job.id] = job
        if roots := {uow.live[id_].root_id for id_ in ids} - uow.live.keys():
            self._load_trees(roots, set())
        self._load_attempt_errors([id_ for id_ in ids if uow.live[id_].attempt])

    def _load_attempt_errors(self, ids: Sequence[str]) -> None:
        if ids:
            found = self._read(self._sql.attempt_errors, {"ids": self._bulk.list_of(ids)})
            for job_id, errors in rows.attempt_errors_of(found).items():
                self._uow.jobs[job_id].attempt_errors = errors

    def _load_heads(self, roots: set[str]) -> None:
        ends = select(tables.audit.c.root_id, tables.audit.c.sequence, tables.audit.c.hash)
        for root_id in roots:
            last = ends.where(tables.audit.c.root_id == root_id).order_by(tables.audit.c.sequence.desc()).limit(1)
            row = self._connection.execute(last).first()
            self._heads[root_id] = AuditHead(row.sequence, row.hash) if row else AuditHead()

    # Deciding

    def _append_audit(self, op: AppendAudit) -> int:
        if op.root_id not in self._uow.jobs and op.root_id not in self._uow.live:
            raise ServiceError(ErrorReason.JOB_NOT_FOUND, f"no job has the id {op.root_id}")
        head = self._heads[op.root_id]
        if op.append_id:
            same = (tables.audit.c.root_id == op.root_id) & (tables.audit.c.append_id == op.append_id)
            if self._connection.execute(select(tables.audit.c.sequence).where(same).limit(1)).first():
                return head.sequence
        records = [head.chain(op, entry, self._uow.now) for entry in op.entries]
        self._connection.execute(insert(tables.audit), [rows.audit_values(record) for record in records])
        return head.sequence

    def _pass_time(self, op: PassTime) -> int:
        found = self._read(self._sql.live_due, {"now": self._uow.now, "limit": op.limit})
        due = [job.id for job in map(rows.live_job, found)]
        if due:
            self._load_trees(set(due), set(due))
        for job_id in due:
            if job := self._uow.live.get(job_id):  # it may have ended with its parent
                operations.pass_time(self._uow, job)
        return len(due)

    def _recount(self) -> None:
        self.changes.counts = Counter()
        for phase, lane, number in self._read(self._sql.counts):
            self.changes.counts[parse_lane(lane)[0], Phase(phase)] += number

    def _claim(self, claimers: Sequence[Claimer]) -> list[list[Lease]]:
        kinds = frozenset[str]().union(*(claimer.kinds for claimer in claimers))
        wanted = sum(claimer.max_jobs for claimer in claimers)
        waiting = self._read(self._sql.waiting, {"kinds": self._bulk.list_of(kinds), "wanted": wanted})
        by_lane: dict[str, int] = {}
        if self._policy.has_limits or len({lane for lane, _, _ in waiting}) > 1:
            by_lane = dict(self._read(self._sql.running))
        allotted = allot(claimers, waiting, Running(by_lane), self._policy)
        ids = {job_id for job_ids in allotted for job_id in job_ids}
        if ids:
            self._load_claimed(ids)
        # A job whose deadline has passed is left to the sweeper, which is about to end it.
        return [
            [self._lease(id_, claimer.worker_id) for id_ in job_ids if self._uow.live[id_].deadline > self._uow.now]
            for claimer, job_ids in zip(claimers, allotted, strict=True)
        ]

    def _lease(self, job_id: str, worker_id: str) -> Lease:
        live = self._uow.live[job_id]
        self._uow.lease(live, worker_id)
        return Lease(self._uow.jobs[job_id].stands_as(live), live.fencing_token, live.lease_expire_time)

    # Writing

    def _write_live(self) -> None:
        """Writes what claims read: new jobs, the standing of all, and what the next attempt is given."""
        uow = self._uow
        inserted = [uow.live[id_] for id_ in uow.unwritten if id_ in uow.live]
        updated = [job for id_, job in uow.changed.items() if id_ not in uow.unwritten]
        gone = [id_ for id_ in uow.gone if id_ not in uow.unwritten]
        self._write(self._sql.insert_live, [rows.live_values(job) for job in inserted])
        self._write(self._sql.update_live, [rows.standing_values(job) for job in updated])
        if gone:
            self._bulk.run(self._connection, self._sql.delete_live, {"ids": self._bulk.list_of(gone)})
        for job in (*inserted, *updated):
            self.changes.next_wake = min(self.changes.next_wake, job.wake_time)
        self._write(self._sql.insert_jobs, [rows.job_values(job) for job in uow.created])
        self._write(self._sql.update_checkpoints, list(uow.checkpoints.items()))
        self._write(
            self._sql.insert_attempt_errors, [rows.attempt_error_values(*error) for error in uow.attempt_errors]
        )
        for written in (uow.unwritten, uow.changed, uow.gone, uow.created, uow.checkpoints, uow.attempt_errors):
            written.clear()

    def _write_the_rest(self) -> None:
        uow, sql = self._uow, self._sql
        ended = [rows.ending_values(job, ending, uow.now) for job, ending in uow.ended.values()]
        self._write(sql.update_ended, ended)
        self._write(sql.insert_events, [rows.event_values(event) for event in uow.events])
        self._write(sql.insert_stops, [rows.stop_values(stop) for stop in uow.stops])
        texts = [(job.id,) for job, _ in uow.ended.values() if job.has_text]
        self._write(sql.insert_compactions, texts)
        self.changes.events = uow.events
        self.changes.stops = uow.stops
        self.changes.moved = uow.moved

    def _write(self, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        self._bulk.write(self._connection, statement, values)
