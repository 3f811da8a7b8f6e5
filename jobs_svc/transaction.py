"""One write transaction: loads what a batch of operations names, lets the queue's rules decide, writes the differences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from jobs_svc import operations, rows
from jobs_svc.audit import AppendAudit, AuditLog, AuditRecord
from jobs_svc.events import Event
from jobs_svc.job import Phase, Stop, parse_lane
from jobs_svc.low_water import LowWater
from jobs_svc.operations import AbortJobs, Ages, CreateJobs, Lease, Report, Reported, RootCounts
from jobs_svc.policy import Policy
from jobs_svc.statements import NEVER, Statements
from jobs_svc.turns import Claimer, Running, WaitingJob, allot, is_any_used_up
from jobs_svc.unit_of_work import UnitOfWork
from svc_common.errors import ErrorReason, ServiceError
from svc_common.times import Clock

# What the jobs of one claim may hold together: with what is around them they must fit into one message.
CLAIM_BYTES = 8 * 1024 * 1024
FEW_PER_LANE = 4


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
    """Does to these jobs what is due to them by now, if anything."""

    job_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Work that no rule of the queue decides."""

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
    # By kind: jobs that became ready and still are, and leases that ended.
    readied: Counter[str] = field(default_factory=Counter)
    freed: Counter[str] = field(default_factory=Counter)
    # Unfinished jobs by kind and phase, before `moved`, when somebody asked.
    counts: Counter[tuple[str, Phase]] | None = None
    # It is not known what was committed, if anything; nothing else is set.
    in_doubt: bool = False
    # Earliest time at which a job that was written is due for something.
    next_wake: int = NEVER


Rows = list[tuple[Any, ...]]
Query = tuple[str, Mapping[str, Any]]


def _claimer_of(op: Operation) -> Claimer | None:
    return op if isinstance(op, Claimer) else op.claimer if isinstance(op, ReportJobs) else None


class Transaction:
    """Use once, within a database transaction that is committed after `run` has returned and rolled back when it raises."""

    def __init__(
        self,
        connection: Connection,
        statements: Statements,
        policy: Policy,
        clock: Clock,
        ages: Ages,
        low_water: LowWater,
    ) -> None:
        self._connection = connection
        self._sql = statements
        self._bulk = statements.bulk
        self._policy = policy
        self._clock = clock
        self._ages = ages
        self._low_water = low_water
        self._uow = UnitOfWork(0, policy)
        self._audit_logs: defaultdict[str, AuditLog] = defaultdict(AuditLog)
        self._audit_records: list[AuditRecord] = []
        self._held: defaultdict[str, list[str]] = defaultdict(list)  # job ids by claim
        self._roots = RootCounts(Counter())
        self.changes = Changes()

    def run(self, ops: Sequence[Operation]) -> list[Any]:
        """One result per operation, in order; a ServiceError is the answer to that operation alone."""
        self._load(ops)
        # After what was loaded: it may have taken a while until it was our turn.
        self._uow.now = self._clock()
        self._ages.reach(self._uow.now)
        results: list[Any] = [self._apply(op) for op in ops]
        # Claims come last: what the other operations of the batch make ready can be leased at once.
        claims = [(claimer, result) for op, result in zip(ops, results, strict=True) if (claimer := _claimer_of(op))]
        self._low_water.lower(self._uow.readied.values())
        if claims:
            self._write_live()
            all_leases = self._claim([claimer for claimer, _ in claims])
            for (_, result), leases in zip(claims, all_leases, strict=True):
                result.leases.extend(leases)
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
                    return operations.create(self._uow, op, self._roots, self._ages)
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
        audits: list[AppendAudit] = []
        claims = {claimer.claim_id for op in ops if (claimer := _claimer_of(op)) and claimer.claim_id}
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
                case PassTime():
                    named.update(op.job_ids)
                    ending.update(op.job_ids)
                case AppendAudit():
                    audits.append(op)
        _, known, standing, held = self._read(
            self._sql.writers_turn,
            self._query(self._sql.jobs, ids=creating),
            self._trees_query(named, ending),
            self._query(self._sql.live_of_claims, ids=claims),
        )
        self._take_jobs(known)
        self._take_trees(named, ending, standing)
        self._load_trees(creating & self._uow.jobs.keys(), set())
        self._load_jobs((named | {op.root_id for op in audits}) - creating - self._uow.live.keys())
        self._take_held(held)
        if limited:
            [found] = self._read(self._query(self._sql.unfinished_roots, kinds=limited))
            for lane, number in found:
                kind, _, tenant = parse_lane(lane)
                self._roots.roots[kind, tenant] += number
        self._load_audit_logs(audits)

    def _query(self, statement: str, **lists: Iterable[str]) -> Query | None:
        """A statement about what the lists name; None when they name nothing."""
        parameters = {name: self._bulk.list_of(values) for name, values in lists.items()}
        return (statement, parameters) if any(lists.values()) else None

    def _read(self, *queries: Query | None) -> list[Rows]:
        return self._bulk.read_all(self._connection, queries)

    def _load_jobs(self, ids: Iterable[str]) -> None:
        [found] = self._read(self._query(self._sql.jobs, ids=ids))
        self._take_jobs(found)

    def _take_jobs(self, found: Rows) -> None:
        self._uow.jobs.update((job.id, job) for job in map(rows.job_of, found) if job.id not in self._uow.jobs)

    def _load_trees(self, named: set[str], ending: set[str]) -> None:
        """The named unfinished jobs, their roots, and all descendants of those that may end."""
        [found] = self._read(self._trees_query(named, ending))
        self._take_trees(named, ending, found)

    def _trees_query(self, named: set[str], parents: set[str]) -> Query | None:
        if parents:
            return self._query(self._sql.live_with_children, ids=named, parents=parents)
        return self._query(self._sql.live, ids=named)

    def _take_trees(self, named: set[str], parents: set[str], found: Rows) -> None:
        """Goes on from what `_trees_query` found to the roots and, level by level, to the descendants of the parents.

        Whether a job is new here does not matter: one that was loaded for another reason may have children that were not.
        """
        uow = self._uow
        asked, descended = set(named), set(parents)
        while True:
            loaded = list(map(rows.live_job, found))
            uow.load(loaded)
            parents = {child for id_ in parents for child in uow.children.get(id_, ()) if child in uow.live} - descended
            named = {job.root_id for job in loaded} - uow.live.keys() - asked
            if not named and not parents:
                return
            asked |= named
            descended |= parents
            [found] = self._read(self._trees_query(named, parents))

    def _take_held(self, found: Rows) -> None:
        """What was leased by earlier calls with the ids of this batch's claims."""
        held = list(map(rows.live_job, found))
        self._uow.load(held)
        for job in held:
            self._held[job.claim_id].append(job.id)

    def _load_claimed(self, ids: set[str]) -> None:
        """What workers are given with the leases of these jobs, and the roots of them."""
        uow = self._uow
        missing = ids - (uow.live.keys() & uow.jobs.keys())
        [found] = self._read(self._query(self._sql.claimed, ids=missing))
        for live, job in map(rows.claimed_job, found):
            uow.load((live,))
            if job:
                uow.jobs[job.id] = job
        self._load_attempt_errors([id_ for id_ in ids if uow.live[id_].attempt])

    def _load_attempt_errors(self, ids: Sequence[str]) -> None:
        [found] = self._read(self._query(self._sql.attempt_errors, ids=ids))
        for job_id, errors in rows.attempt_errors_of(found).items():
            self._uow.jobs[job_id].attempt_errors = errors

    def _load_audit_logs(self, audits: Sequence[AppendAudit]) -> None:
        root_ids = {op.root_id for op in audits}
        append_ids = {op.append_id for op in audits} - {""}
        ends, appends = self._read(
            self._query(self._sql.audit_ends, ids=root_ids),
            self._query(self._sql.audit_appends, ids=root_ids, append_ids=append_ids) if append_ids else None,
        )
        self._audit_logs.update((root_id, AuditLog(sequence, hash_)) for root_id, sequence, hash_ in ends)
        for root_id, append_id in appends:
            self._audit_logs[root_id].append_ids.add(append_id)

    # Deciding

    def _append_audit(self, op: AppendAudit) -> int:
        if self._uow.find(op.root_id) is None:
            raise ServiceError(ErrorReason.JOB_NOT_FOUND, f"no job has the id {op.root_id}")
        log = self._audit_logs[op.root_id]
        self._audit_records += log.append(op, self._uow.now)
        return log.sequence

    def _pass_time(self, op: PassTime) -> None:
        for job_id in op.job_ids:
            if job := self._uow.live.get(job_id):  # it may have ended, with its parent or by itself
                operations.pass_time(self._uow, job)

    def _recount(self) -> None:
        self.changes.counts = Counter()
        [found] = self._read((self._sql.counts, {}))
        for phase, lane, number in found:
            self.changes.counts[parse_lane(lane)[0], Phase(phase)] += number

    def _claim(self, claimers: Sequence[Claimer]) -> list[list[Lease]]:
        """Leases for each claimer; those of an earlier call with the same id when that had any."""
        keys = [claimer.claim_id or number for number, claimer in enumerate(claimers)]
        asking = dict(zip(keys, claimers, strict=True))  # a call and its repeat may have come into one batch
        given = {claim_id: ids for claim_id in self._held if (ids := self._still_held(claim_id))}
        new = [key for key in asking if key not in given]
        job_ids = dict(zip(new, self._allot([asking[key] for key in new]), strict=True)) | given
        self._load_claimed({job_id for ids in job_ids.values() for job_id in ids})
        leases = {key: [self._lease(id_, claimer) for id_ in job_ids[key]] for key, claimer in asking.items()}
        return [leases[key] for key in keys]

    def _still_held(self, claim_id: str) -> list[str]:
        held = (job for job_id in self._held[claim_id] if (job := self._uow.live.get(job_id)))
        return [job.id for job in held if job.phase is Phase.RUNNING and job.claim_id == claim_id]

    def _allot(self, claimers: Sequence[Claimer]) -> list[list[str]]:
        """Ids of waiting jobs for each claimer. Few of each lane are looked at, and more only when a lane has given all of them."""
        if not claimers:
            return []
        kinds = frozenset[str]().union(*(claimer.kinds for claimer in claimers))
        wanted = sum(claimer.max_jobs for claimer in claimers)
        waiting, share = self._waiting(kinds, wanted, min(wanted, FEW_PER_LANE))
        allotted = self._dealt(claimers, waiting)
        if share < wanted and is_any_used_up(waiting, share, allotted):
            waiting, _ = self._waiting(kinds, wanted, wanted)
            allotted = self._dealt(claimers, waiting)
        jobs = {job.id: job for job in waiting}
        fitting = [self._fitting([jobs[job_id] for job_id in job_ids]) for job_ids in allotted]
        self._low_water.settle(waiting, {job_id for job_ids in fitting for job_id in job_ids})
        return fitting

    def _waiting(self, kinds: frozenset[str], wanted: int, least: int) -> tuple[list[WaitingJob], int]:
        """The oldest jobs of each lane, and how many of each were looked for: at least `least`, and more when the lanes are few."""
        now = self._uow.now
        if self._low_water.knows(kinds, now) and (marks := self._low_water.marks_of(kinds)):
            share = max(least, 2 * wanted // len(marks) + 1)
            starts = {"marks": self._bulk.map_of(marks), "share": share, "now": now}
            [found] = self._read((self._sql.waiting_from, starts))
            if found:
                return [WaitingJob(*row) for row in found], share
        self._low_water.look_at_all(kinds, now)
        parameters = {"kinds": self._bulk.list_of(kinds), "now": now, "wanted": wanted, "least": least}
        [found] = self._read((self._sql.waiting, parameters))
        return [WaitingJob(*row[:-1]) for row in found], found[0][-1] if found else wanted

    def _dealt(self, claimers: Sequence[Claimer], waiting: Sequence[WaitingJob]) -> list[list[str]]:
        by_lane: dict[str, int] = {}
        if self._policy.has_limits or len({job.lane for job in waiting}) > 1:
            [running] = self._read((self._sql.running, {}))
            by_lane = dict(running)
        return allot(claimers, waiting, Running(by_lane), self._policy)

    def _fitting(self, jobs: Sequence[WaitingJob]) -> list[str]:
        """As many as one message can carry, but one at least; the others are left to whoever comes next."""
        total = 0
        for number, job in enumerate(jobs):
            total += job.content_bytes
            if number and total > CLAIM_BYTES:
                self.changes.readied.update(parse_lane(left.lane)[0] for left in jobs[number:])
                return [job.id for job in jobs[:number]]
        return [job.id for job in jobs]

    def _lease(self, job_id: str, claimer: Claimer) -> Lease:
        live = self._uow.live[job_id]
        if live.phase is Phase.RUNNING:  # its claim is repeated
            self._uow.renew(live)
        else:
            self._uow.lease(live, claimer.worker_id, claimer.claim_id)
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
        self._write(sql.insert_audit, [rows.audit_values(record) for record in self._audit_records])
        texts = [(job.id,) for job, _ in uow.ended.values() if job.has_text]
        self._write(sql.insert_compactions, texts)
        self.changes.events = uow.events
        self.changes.stops = uow.stops
        self.changes.moved = uow.moved
        self.changes.readied.update(job.kind for job in uow.readied.values())
        self.changes.freed = uow.freed

    def _write(self, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
        self._bulk.write(self._connection, statement, values)
