"""What an instance asks of the tool that runs it: files, and an ear for its text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llm.conversation import Conversation
from llm.instance import ToolOutcome, ToolUse
from llm.tracing import tool_span
from tool_svc.calls import Listener, Progress
from tool_svc.files import WorkspaceFiles
from tool_svc.read_files import read_for_model
from tool_svc.workspace.paths import normalise
from tool_svc.workspaces import WorkspaceSnapshot


class ToolHost:
    """The `llm.instance.Host` of one run. `given_paths` are the files whose content or header the model has seen."""

    def __init__(
        self, files: WorkspaceFiles, snapshot: WorkspaceSnapshot, listener: Listener, given_paths: Sequence[str]
    ) -> None:
        self._files = files
        self._snapshot = snapshot
        self._listener = listener
        self.given_paths = dict.fromkeys(given_paths)

    def report(self, stage: str) -> None:
        self._listener.progress(Progress(stage, len(self.given_paths), self._snapshot.files_total))

    async def run_tools(self, round: int, thought: str, uses: Sequence[ToolUse]) -> Sequence[ToolOutcome]:
        self.report("reading files")
        outcomes = await asyncio.gather(*(self._read(use) for use in uses))
        self.report("waiting for the model")
        return outcomes

    async def on_text(self, text: str) -> None:
        self._listener.text(text)

    async def on_restart(self) -> None:
        # Partial text is for watching; the result holds the text that counts.
        self._listener.text("\n\n")

    async def on_turn(self, conversation: Conversation) -> None:
        # No checkpoint: a tool run is a few calls long, and another attempt should see the files as they are then.
        pass

    async def on_warning(self, message: str) -> None:
        self.report(message)

    async def _read(self, use: ToolUse) -> ToolOutcome:
        with tool_span(use):
            read = await self._files.run(read_for_model, self._snapshot, use.input["paths"])
        self.given_paths.update((normalise(path), None) for path in read.paths)
        return read.outcome
