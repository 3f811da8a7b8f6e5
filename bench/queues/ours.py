"""jobs_svc in a process of its own, measured over gRPC."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
from dbp.jobs.v1 import jobs_pb2, jobs_pb2_grpc

from bench.peers.environment import ROOT
from bench.queues.measures import CALLERS, ENQUEUE_BATCH, WORKERS, Extent, Figures, drained, percentile, rate
from svc_common.channel import call, open_channel
from svc_common.ids import new_id
from svc_common.settings import CommonSettings
from svc_common.times import MICROS, duration_from_seconds, now, to_timestamp

BATCHING_WORKERS, BATCH = 4, 100


async def measure(url: str, extent: Extent) -> tuple[Figures, dict[str, float]]:
    """The figures, and the CPU time of the service in ms per job by figure, which a busy machine changes less."""
    async with _running(url) as (stub, process):
        queue = _Queue(stub, process, extent)
        return await queue.measure(), queue.costs


class _Queue:
    """jobs_svc, called from this process."""

    def __init__(self, stub: Any, process: psutil.Process, extent: Extent) -> None:
        self._stub = stub
        self._process = process
        self.costs: dict[str, float] = {}
        self._extent = extent
        self._done = 0

    async def measure(self) -> Figures:
        extent, figures = self._extent, Figures()
        # Enqueued last, here and at the peers, so that nobody's backlog is in the way.
        pickups = await self._pickups()
        figures.pickup_p50, figures.pickup_p99 = percentile(pickups, 0.5), percentile(pickups, 0.99)
        for workers in WORKERS:
            setattr(figures, f"drain_{workers}", await self._drain(f"drain_{workers}", workers, 1))
        figures.drain_batched = await self._drain("drain_batched", BATCHING_WORKERS, BATCH)
        figures.single = await rate(lambda: self._create("work", 1), CALLERS, extent.seconds)
        figures.batched = await rate(lambda: self._create("work", ENQUEUE_BATCH), 1, extent.seconds)
        return figures

    async def _create(self, kind: str, number: int) -> int:
        deadline = to_timestamp(now() + 3600 * MICROS)
        jobs = [
            jobs_pb2.NewJob(id=new_id(), tenant="bench", kind=kind, payload=b"x" * 100, deadline=deadline)
            for _ in range(number)
        ]
        await self._stub.CreateJobs(jobs_pb2.CreateJobsRequest(jobs=jobs))
        return number

    async def _drain(self, kind: str, workers: int, batch: int) -> float:
        for _ in range(self._extent.backlog // 500):
            await self._create(kind, 500)
        self._done = 0
        before = self._cpu_seconds()
        work = asyncio.gather(*(self._work(f"w{number}", kind, batch) for number in range(workers)))
        speed = await drained(lambda: self._done, self._extent.backlog, 2 * self._extent.seconds, work)
        self.costs[kind] = (self._cpu_seconds() - before) * 1000 / max(1, self._done)
        return speed

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def _work(self, worker: str, kind: str, batch: int) -> None:
        """Ends what it has and takes the next in one call, as `svc_common.worker` does."""
        first = jobs_pb2.ClaimJobsRequest(worker_id=worker, kinds=[kind], max_jobs=batch, claim_id=new_id())
        leases = (await self._stub.ClaimJobs(first)).leases
        while leases:
            reports = [
                jobs_pb2.JobReport(
                    job_id=lease.job.id, fencing_token=lease.fencing_token, success=jobs_pb2.Success(result=b"ok")
                )
                for lease in leases
            ]
            claim = jobs_pb2.NextClaim(kinds=[kind], max_jobs=batch, claim_id=new_id())
            request = jobs_pb2.ReportJobsRequest(worker_id=worker, reports=reports, next_claim=claim)
            response = await self._stub.ReportJobs(request)
            self._done += len(response.results)
            leases = response.leases

    async def _pickups(self) -> list[float]:
        """Milliseconds from the call that creates a job until a worker that waits for it has it."""
        began: dict[str, float] = {}
        taken: list[float] = []

        async def wait() -> None:
            while True:
                wait = duration_from_seconds(20)
                request = jobs_pb2.ClaimJobsRequest(worker_id="pick", kinds=["pick"], max_wait=wait, claim_id=new_id())
                for lease in (await self._stub.ClaimJobs(request)).leases:
                    taken.append((time.perf_counter() - began[lease.job.id]) * 1000)

        workers = [asyncio.create_task(wait()) for _ in range(4)]
        await asyncio.sleep(0.3)
        for _ in range(self._extent.pickups):
            deadline = to_timestamp(now() + 3600 * MICROS)
            job = jobs_pb2.NewJob(id=new_id(), tenant="bench", kind="pick", deadline=deadline)
            began[job.id] = time.perf_counter()
            await self._stub.CreateJobs(jobs_pb2.CreateJobsRequest(jobs=[job]))
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return taken


@asynccontextmanager
async def _running(url: str) -> AsyncIterator[tuple[Any, psutil.Process]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DBP_JOBS_LISTEN": f"127.0.0.1:{port}",
        "DBP_JOBS_DATABASE_URL": url,
        "DBP_JOBS_LEASE_SECONDS": "600",
        "DBP_LOG_LEVEL": "WARNING",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "jobs_svc", env=environment, cwd=ROOT)
    channel = open_channel(f"127.0.0.1:{port}", CommonSettings())
    try:
        stub: Any = jobs_pb2_grpc.JobsServiceStub(channel)
        await call(stub.GetQueueStats, jobs_pb2.GetQueueStatsRequest(), patience=30)
        yield stub, psutil.Process(process.pid)
    finally:
        await channel.close(None)
        process.terminate()
        await process.wait()
