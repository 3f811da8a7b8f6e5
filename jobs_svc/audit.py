"""The audit log of a root job: records chained by hashes, so that a change or a gap shows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

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
class AuditHead:
    """The end of a chain, on which the next record builds."""

    sequence: int = 0
    hash: str = NO_HASH

    def chain(self, op: AppendAudit, entry: AuditEntry, time: int) -> AuditRecord:
        """An entry of the operation as the next record of the chain; the head moves on to it."""
        previous, self.sequence = self.hash, self.sequence + 1
        content = "\n".join((previous, str(self.sequence), entry.job_id, entry.record_json))
        self.hash = hashlib.sha256(content.encode()).hexdigest()
        return AuditRecord(
            op.root_id, self.sequence, time, entry.job_id, entry.record_json, previous, self.hash, op.append_id
        )
