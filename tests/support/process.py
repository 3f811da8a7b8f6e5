"""Servers of ours as processes of their own, which tests kill and benches measure."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """`python ARGUMENTS`, which tells on its standard error on which port it serves; killed and started again at will.

    The variable named `listen`, if any, gets an address whose port stays the same.
    """

    def __init__(self, *arguments: str, listen: str = "", **environment: str) -> None:
        self._arguments = arguments
        self._listen = listen
        self._environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", **environment}
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns when it serves."""
        address = {self._listen: f"127.0.0.1:{self.port}"} if self._listen else {}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            cwd=ROOT,
            env={**os.environ, **self._environment, **address},
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr is not None
        lines: list[str] = []
        async for line in self._process.stderr:
            lines.append(line.decode())
            if found := re.search(r"serves on port (\d+)", lines[-1]):
                self.port = int(found[1])
                self._log = asyncio.create_task(_drain(self._process.stderr))
                return
        raise RuntimeError(f"{' '.join(self._arguments)} does not start:\n{''.join(lines)}")

    async def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        await self._process.wait()
        if self._log:
            await self._log
        self._process = None


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
