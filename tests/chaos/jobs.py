"""Kills workers, replicas of jobs_svc and PostgreSQL at random under load, and then looks whether every promise was kept.

python -m tests.chaos.jobs --store postgresql --seconds 300 [--seed 7]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

from dbp.jobs.v1 import jobs_pb2

from svc_common.channel import stream
from svc_common.errors import ServiceError
from svc_common.ids import new_id
from tests.jobs_svc.client import Client, new_job
from tests.support.postgres import PostgresServer

PRODUCERS, WORKERS = 3, 3
JOB_SECONDS = 12
REPOSITORY = Path(__file__).parents[2]


class Process:
    """A process of this run that is killed and started again."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._command = [sys.executable, *arguments]
        self._environment = {**os.environ, **environment}
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._environment, cwd=REPOSITORY, stderr=subprocess.DEVNULL
        )
        self._is_killed = False

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._is_killed = True

    def start_if_ended(self) -> None:
        """What a supervisor does, e.g. with a service that began while its store was away."""
        if not self._is_killed and self._process.poll() is not None:
            self.start()


class Chaos:
    """One run. `problems` says what was broken; empty when every promise was kept."""

    def __init__(self, store: str, seconds: float, seed: int, folder: Path) -> None:
        self._seconds = seconds
        self._random = random.Random(seed)
        self._acknowledged = folder / "acknowledged"
        self._acknowledged.touch()
        self._stack = ExitStack()
        self._postgres: PostgresServer | None = None
        if store == "postgresql":
            self._postgres = PostgresServer()
            self._stack.callback(self._postgres.close)
            self._postgres.start()
        url = self._postgres.url if self._postgres else f"sqlite:///{folder}/jobs.sqlite"
        self._ports = [_free_port() for _ in range(2 if self._postgres else 1)]
        self._services = [self._run("-m", "jobs_svc", **_service_settings(url, port)) for port in self._ports]
        self._workers = [
            self._run("-m", "tests.chaos.jobs_worker", str(self._random.choice(self._ports)), str(self._acknowledged))
            for _ in range(WORKERS)
        ]
        self._created: set[str] = set()
        self._roots: set[str] = set()
        self._seen: dict[str, list[int]] = {}
        self._texts: defaultdict[str, str] = defaultdict(str)
        self.problems: list[str] = []
        self.kills: Counter[str] = Counter()

    def _run(self, *arguments: str, **environment: str) -> Process:
        process = Process(*arguments, **environment)
        self._stack.callback(process.kill)
        return process

    async def run(self) -> None:
        clients = [Client(port, patience=90) for port in self._ports]
        with self._stack:
            supervisor = asyncio.create_task(self._supervise())
            for client in clients:
                await client.call("GetQueueStats", jobs_pb2.GetQueueStatsRequest())
            async with asyncio.TaskGroup() as watching:
                stopping = asyncio.Event()
                producers = [
                    asyncio.create_task(self._produce(self._random.choice(clients), clients, watching, stopping))
                    for _ in range(PRODUCERS)
                ]
                await self._kill_for_a_while()
                stopping.set()
                await asyncio.gather(*producers)
            await self._judge(clients[0])
            supervisor.cancel()
            for client in clients:
                await client.close()

    async def _produce(
        self, client: Client, clients: list[Client], watching: asyncio.TaskGroup, stopping: asyncio.Event
    ) -> None:
        """Creates trees, some of which are aborted, and has each watched to its end."""
        while not stopping.is_set():
            root = new_id()
            jobs = [new_job(root, kind="root", seconds=JOB_SECONDS, max_attempts=20)]
            if self._random.random() < 0.5:
                jobs += [new_job(f"{root}.{n}", parent_id=root, kind="child", max_attempts=20) for n in range(3)]
            await client.create(*jobs)
            self._created.update(job.id for job in jobs)
            self._roots.add(root)
            watching.create_task(self._watch(self._random.choice(clients), root))
            if self._random.random() < 0.1:
                await client.abort(root)
            await asyncio.sleep(self._random.random() * 0.05)

    async def _watch(self, client: Client, root: str) -> None:
        """Follows a log to its end, again and again from the last sequence seen while the connection breaks."""
        seen = self._seen.setdefault(root, [])
        ended = False
        while not ended:
            try:
                async with stream(client.watch(root, seen[-1] if seen else 0)) as responses:
                    async for response in responses:
                        for event in response.events:  # one that was merged stands for several positions
                            seen.extend(range(event.first_sequence, event.sequence + 1))
                            self._texts[root] += event.text.text
                    ended = True
            except ServiceError:
                await asyncio.sleep(0.1)

    async def _kill_for_a_while(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        while loop.time() < end:
            await asyncio.sleep(0.5 + self._random.random())
            victims = ["worker"] * 3 + ["service"] * 2 + (["postgresql"] if self._postgres else [])
            match victim := self._random.choice(victims):
                case "worker":
                    await self._restart(self._random.choice(self._workers))
                case "service":
                    await self._restart(self._random.choice(self._services))
                case "postgresql" if self._postgres:
                    await asyncio.to_thread(self._postgres.kill)
                    await asyncio.to_thread(self._postgres.start)
            self.kills[victim] += 1

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            for process in (*self._services, *self._workers):
                process.start_if_ended()

    async def _restart(self, process: Process) -> None:
        await asyncio.to_thread(process.kill)
        await asyncio.sleep(self._random.random() * 0.3)
        process.start()

    async def _judge(self, client: Client) -> None:
        """Every job terminal exactly once, no acknowledged write missing, every watcher each sequence number once, no text lost."""
        accepted = dict(line.split("\t") for line in self._acknowledged.read_text().splitlines())
        for root in self._roots:
            log = await client.log(root)
            ends = Counter(event.job_id for event in log if event.state_change.state >= 3)
            tree = {id_ for id_ in self._created if id_ == root or id_.startswith(f"{root}.")}
            if ends != Counter(dict.fromkeys(tree, 1)):
                self.problems.append(f"{root}: {len(tree)} jobs, and these ends: {dict(ends)}")
            if log[-1].job_id != root or log[-1].state_change.state < 3:
                self.problems.append(f"{root}: the log does not end with the end of the root")
            if self._seen.get(root) != list(range(1, log[-1].sequence + 1)):
                self.problems.append(f"{root}: a watcher saw {self._seen.get(root)} of {log[-1].sequence}")
            if "".join(event.text.text for event in log) != self._texts[root]:
                self.problems.append(f"{root}: the log has lost text that a watcher saw")
            for job in (await client.list_jobs(root_id=root)).jobs:
                if job.id in accepted and job.result.decode() != accepted[job.id]:
                    self.problems.append(f"{job.id}: {accepted[job.id]!r} was acknowledged, {job.result!r} is kept")

    def __str__(self) -> str:
        accepted = len(self._acknowledged.read_text().splitlines())
        kills = ", ".join(f"{number} x {victim}" for victim, number in sorted(self.kills.items()))
        return (
            f"{len(self._created)} jobs in {len(self._roots)} trees, {accepted} results acknowledged; killed: {kills}"
        )


def _service_settings(url: str, port: int) -> dict[str, str]:
    return {
        "DBP_JOBS_DATABASE_URL": url,
        "DBP_JOBS_LISTEN": f"127.0.0.1:{port}",
        "DBP_JOBS_LEASE_SECONDS": "1",
        "DBP_LOG_LEVEL": "ERROR",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dbp-chaos-") as folder:
        chaos = Chaos(arguments.store, arguments.seconds, arguments.seed, Path(folder))
        asyncio.run(chaos.run())
        sys.stdout.write(f"seed {arguments.seed}: {chaos}\n")
    for problem in chaos.problems:
        sys.stdout.write(f"{problem}\n")
    sys.exit(1 if chaos.problems else 0)


if __name__ == "__main__":
    main()
