"""One call of a tool and what came of it, whether it came as a job or directly."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from svc_common.endings import EndReason
from svc_common.tokens import TokenUsage
from tool_svc.workspace.scope import WHOLE, Scope

DIRECTORIES = "directories"
"""The parameter by which a caller narrows the scope of one call; the schema of any tool may have it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What to do, see `dbp.tool.v1.ToolCall`."""

    tool: str
    workspace: str
    parameters: Mapping[str, Any]
    scope: Scope = WHOLE
    request_id: str = ""
    budget_id: str = ""
    snapshot_id: str = ""
    caller: str = ""

    @property
    def narrowed_scope(self) -> Scope:
        """The scope without what the parameter `directories` leaves out; all of it when none of them is within it.

        Raises PATH_OUTSIDE_WORKSPACE for a directory that leaves the root.
        """
        asked = self.parameters.get(DIRECTORIES, ())
        if Scope(directories=tuple(asked)).is_whole:
            return self.scope
        directories = _common(self.scope.directories, asked) if self.scope.directories else tuple(asked)
        return replace(self.scope, directories=directories or self.scope.directories)


def _common(some: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Directories that are beneath, or are, one of each side."""
    some, others = [posixpath.normpath(path) for path in some], [posixpath.normpath(path) for path in others]
    deeper = [one for one in some if any(_is_beneath(one, other) for other in others)]
    return tuple(dict.fromkeys([*deeper, *(other for other in others if any(_is_beneath(other, one) for one in some))]))


def _is_beneath(path: str, directory: str) -> bool:
    return directory == "." or path == directory or path.startswith(f"{directory}/")


@dataclass(frozen=True, slots=True)
class Execution:
    """Under which names, until when and how urgently a call is executed."""

    instance_id: str
    root_id: str
    """Root job whose audit log the instance writes to; empty when there is none."""
    deadline: int
    """Epoch microseconds by which the result must be there."""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    stage: str
    files_processed: int = 0
    files_total: int = 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a result rests on and what it took, see `dbp.tool.v1.ToolMetadata`. Cost in pico-USD, duration in microseconds."""

    model_ids: Sequence[str] = ()
    tokens: TokenUsage = field(default_factory=TokenUsage)
    cost: int = 0
    duration: int = 0
    files_processed: int = 0
    files_total: int = 0
    snapshot_id: str = ""
    template_hash: str = ""
    model_calls: int = 0
    is_cached: bool = False
    removed_paths: int = 0
    source_paths: Sequence[str] = ()
    is_truncated: bool = False
    files_left_out: int = 0


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a call ended, see `dbp.tool.v1.ToolResult`."""

    tool: str
    output: Mapping[str, Any] | None = None
    text: str = ""
    is_partial: bool = False
    reason: EndReason = EndReason.NONE
    error_message: str = ""
    missing: Sequence[str] = ()
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def is_usable(self) -> bool:
        """Whether there is anything in it for the caller."""
        return self.output is not None or bool(self.text)

    @property
    def is_complete(self) -> bool:
        """Whether it is all that was asked for."""
        return self.is_usable and not self.is_partial and self.reason is EndReason.NONE


class Listener(Protocol):
    """Who follows a call while it runs."""

    def progress(self, progress: Progress) -> None: ...

    def text(self, piece: str) -> None:
        """Takes the next piece of the model's text."""
        ...
