"""The peers' own environment, made once in a folder of the bench, and their runs in it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.peers.environment import FOLDER, PeerMissing, python_with, run_peer
from bench.peers.load import Load
from tests.support.postgres import PostgresServer, fresh_database

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
_NPM = FOLDER / "npm"
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


def install() -> Path:
    """Installs the peers, unless they are there; returns their Python. Raises PeerMissing."""
    python = python_with("fanout", PACKAGES)
    if not any(_NPM.glob("node_modules/@restatedev/*")) and (npm := shutil.which("npm")):
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        run_peer([npm, "install", "--prefix", str(_NPM), *quiet, RESTATE_SERVER], _RUN_SECONDS)
    return python


def measure(python: Path, peer: Peer, callers: Sequence[int], seconds: float) -> list[Load]:
    """Runs a peer's loads, one after the other. Raises PeerMissing when it cannot be run."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dbp-bench-"))
        command = [str(python), "-m", f"bench.peers.{peer.module}", "--seconds", str(seconds)]
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
        output = run_peer(command, _RUN_SECONDS, environment)
        return [Load(**json.loads(line)) for line in output.splitlines() if line.startswith("{")]


def _restate_server() -> Path:
    found = sorted(_NPM.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    if not found:
        raise PeerMissing("npm brought no server for this machine")
    return found[0]
