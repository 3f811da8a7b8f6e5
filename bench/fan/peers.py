"""The peers' own environment, made once in a folder of the bench, and their runs in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.peers.load import Load
from tests.support.postgres import PostgresServer, fresh_database

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".bench-venv"
# AutoGen's runtime holds grpcio, and so protobuf, back: reason enough for an environment of their own.
PACKAGES = (
    "langgraph==1.2.22",
    "langgraph-checkpoint-sqlite==3.1.2",
    "dbos==3.4.0",
    "psycopg[binary]",
    "autogen-core==0.7.5",
    "autogen-ext[grpc]==0.7.5",
    "restate_sdk==1.3.0",
    "hypercorn==0.18.0",
    "aiohttp",
)
RESTATE_SERVER = "@restatedev/restate-server"
_INSTALL_SECONDS = 600
_RUN_SECONDS = 600


@dataclass(frozen=True)
class Peer:
    """What stands beside this system, and what its figures are of."""

    name: str
    module: str
    is_durable: bool
    description: str


PEERS = (
    Peer("LangGraph + SQLite", "on_langgraph", True, "one process"),
    Peer("DBOS + PostgreSQL", "on_dbos", True, "one process and the database"),
    Peer("Restate", "on_restate", True, "server and handlers, one process each"),
    Peer("AutoGen gRPC", "on_autogen", False, "caller, host and agents, one process each"),
)


class PeerMissing(Exception):
    """A peer that cannot be measured here; the message says why."""


def install() -> None:
    """Installs the peers, unless they are there. Raises PeerMissing."""
    done = FOLDER / ".installed"
    wanted = "\n".join(PACKAGES)
    if done.exists() and done.read_text() == wanted:
        return
    _run([sys.executable, "-m", "venv", str(FOLDER / "python")])
    _run([str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES])
    if npm := shutil.which("npm"):
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _run([npm, "install", "--prefix", str(FOLDER / "npm"), *quiet, RESTATE_SERVER])
    done.write_text(wanted)


def measure(peer: Peer, callers: Sequence[int], seconds: float) -> list[Load]:
    """Runs a peer's loads, one after the other. Raises PeerMissing when it cannot be run."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dbp-bench-"))
        command = [str(_python()), "-m", f"bench.peers.{peer.module}", "--seconds", str(seconds)]
        command += ["--callers", ",".join(map(str, callers)), "--folder", folder]
        environment = dict(os.environ)
        match peer.module:
            case "on_dbos":
                server = PostgresServer({"fsync": "on", "full_page_writes": "on"})
                stack.callback(server.close)
                server.start()
                command += ["--url", stack.enter_context(fresh_database(server.url))]
            case "on_restate":
                environment["RESTATE_SERVER"] = str(_restate_server())
        output = _run(command, environment, _RUN_SECONDS)
        return [Load(**json.loads(line)) for line in output.splitlines() if line.startswith("{")]


def _python() -> Path:
    return FOLDER / "python" / "bin" / "python"


def _restate_server() -> Path:
    found = sorted((FOLDER / "npm").glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    if not found:
        raise PeerMissing("npm brought no server for this machine")
    return found[0]


def _run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, seconds: float = _INSTALL_SECONDS
) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(str(error)) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise PeerMissing(lines[-1])
    return done.stdout
