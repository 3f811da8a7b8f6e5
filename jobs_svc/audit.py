"""The audit log of a root job: records chained by hashes, so that a change or a gap shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A record as its writer gives it: which job wrote it, and canonical JSON."""

    job_id: str
    record_json: str


@dataclass(frozen=True, slots=True)
class AppendAudit:
    """`append_id`, unless empty, makes the operation safe to repeat."""

    root_id: str
    entries: Sequence[AuditEntry]
    append_id: str = ""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry in its place in the chain."""

    root_id: str
    sequence: int
    time: int
    job_id: str
    record_json: str
    previous_hash: str
    hash: str
    append_id: str


@dataclass(slots=True)
class AuditLog:
    """The end of a chain, on which the next record builds, and the ids of appends that were made already."""

    sequence: int = 0
    hash: str = NO_HASH
    append_ids: set[str] = field(default_factory=set)

    def append(self, op: AppendAudit, time: int) -> list[AuditRecord]:
        """The operation's entries as the next records of the chain; none when they are in it."""
        if op.append_id in self.append_ids:
            return []
        if op.append_id:
            self.append_ids.add(op.append_id)
        return [self._chain(op, entry, time) for entry in op.entries]

    def _chain(self, op: AppendAudit, entry: AuditEntry, time: int) -> AuditRecord:
        previous, self.sequence = self.hash, self.sequence + 1
        content = "\n".join((previous, str(self.sequence), entry.job_id, entry.record_json))
        self.hash = hashlib.sha256(content.encode()).hexdigest()
        return AuditRecord(
            op.root_id, self.sequence, time, entry.job_id, entry.record_json, previous, self.hash, op.append_id
        )
