"""Whose turn it is: higher priority first, then the tenant with the fewest running jobs, then age; all within the limits."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs_svc.job import parse_lane
from jobs_svc.policy import Policy, limit_of


@dataclass(frozen=True, slots=True)
class Claimer:
    """A worker that asks for up to `max_jobs` jobs of some kinds. An id makes the claim safe to repeat."""

    worker_id: str
    kinds: frozenset[str]
    max_jobs: int
    claim_id: str = ""


class WaitingJob(NamedTuple):
    """A job that can be leased. `age` is its time of creation; `content_bytes` is what its lease would carry."""

    lane: str
    age: int
    id: str
    content_bytes: int = 0


@dataclass(slots=True)
class _Lane:
    kind: str
    rank: int
    tenant: str
    waiting: deque[tuple[int, str]] = field(default_factory=deque)  # age and id, oldest first


class Running:
    """How many jobs run, by tenant and by kind."""

    def __init__(self, by_lane: Mapping[str, int]) -> None:
        self._tenants: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._both: Counter[tuple[str, str]] = Counter()
        for lane, count in by_lane.items():
            kind, _, tenant = parse_lane(lane)
            self.add(kind, tenant, count)

    def add(self, kind: str, tenant: str, count: int = 1) -> None:
        self._tenants[tenant] += count
        self._kinds[kind] += count
        self._both[kind, tenant] += count

    def of_tenant(self, tenant: str) -> int:
        return self._tenants[tenant]

    def has_room(self, policy: Policy, kind: str, tenant: str) -> bool:
        counted = (
            (limit_of(policy.kind_limits, kind), self._kinds[kind]),
            (limit_of(policy.tenant_limits, kind), self._both[kind, tenant]),
            (policy.tenant_limit, self._tenants[tenant]),
        )
        return all(limit is None or running < limit for limit, running in counted)


def allot(
    claimers: Sequence[Claimer], waiting: Iterable[WaitingJob], running: Running, policy: Policy
) -> list[list[str]]:
    """Job ids for each claimer, in turn. `waiting` is sorted by age within each lane.

    Jobs are dealt one at a time, so that no worker sits idle while another takes more than its share. `running` is updated.
    """
    lanes: dict[str, _Lane] = {}
    for job in waiting:
        if (lane := lanes.get(job.lane)) is None:
            lane = lanes[job.lane] = _Lane(*parse_lane(job.lane))
        lane.waiting.append((job.age, job.id))
    turns = {kinds: _Turns(lanes, kinds, running, policy) for kinds in {claimer.kinds for claimer in claimers}}
    out: list[list[str]] = [[] for _ in claimers]
    hungry = deque(range(len(claimers)))
    while hungry:
        number = hungry.popleft()
        if len(out[number]) >= claimers[number].max_jobs:
            continue
        if (taken := turns[claimers[number].kinds].take()) is not None:
            out[number].append(taken)
            hungry.append(number)
    return out


def is_any_used_up(waiting: Iterable[WaitingJob], share: int, allotted: Iterable[Iterable[str]]) -> bool:
    """Whether a lane of which only the first `share` jobs were known has given all of them, so that its next may have been due."""
    taken = {job_id for job_ids in allotted for job_id in job_ids}
    given = Counter(job.lane for job in waiting if job.id in taken)
    return any(number >= share for number in given.values())


class _Turns:
    """The lanes of some kinds by turn. Entries go stale when a tenant's share or a lane's head changes, and are then renewed."""

    def __init__(self, lanes: Mapping[str, _Lane], kinds: frozenset[str], running: Running, policy: Policy) -> None:
        self._lanes = lanes
        self._running = running
        self._policy = policy
        self._heap = [self._entry(name) for name, lane in lanes.items() if lane.kind in kinds]
        heapq.heapify(self._heap)

    def _entry(self, name: str) -> tuple[int, int, tuple[int, str], str]:
        lane = self._lanes[name]
        return lane.rank, self._running.of_tenant(lane.tenant), lane.waiting[0], name

    def take(self) -> str | None:
        while self._heap:
            name = self._heap[0][3]
            lane = self._lanes[name]
            if not lane.waiting or not self._running.has_room(self._policy, lane.kind, lane.tenant):
                heapq.heappop(self._heap)
            elif (entry := self._entry(name)) != self._heap[0]:
                heapq.heapreplace(self._heap, entry)
            else:
                self._running.add(lane.kind, lane.tenant)
                return lane.waiting.popleft()[1]
        return None
