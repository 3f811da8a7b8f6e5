"""PgQueuer: as many queue managers as workers, each with a connection of its own, in one process."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import asyncpg
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from bench.queues.measures import (
    CALLERS,
    ENQUEUE_BATCH,
    WORKERS,
    Extent,
    Figures,
    drained,
    peer_main,
    percentile,
    rate,
)

BATCHING_WORKERS, BATCH = 4, 100


async def measure(url: str, extent: Extent) -> Figures:
    done = 0
    pickups: list[float] = []
    pool: list[Queries] = []
    for _ in range(CALLERS):
        pool.append(Queries(AsyncpgDriver(await asyncpg.connect(url))))
    await pool[0].install()

    async def enqueue_one() -> int:
        queries = pool.pop()
        await queries.enqueue("work", b"x" * 100)
        pool.append(queries)
        return 1

    async def enqueue_many() -> int:
        await pool[0].enqueue(["work"] * ENQUEUE_BATCH, [b"x" * 100] * ENQUEUE_BATCH, [0] * ENQUEUE_BATCH)
        return ENQUEUE_BATCH

    async def manager(entrypoint: str, batch: int, mode: QueueExecutionMode) -> Any:
        queue = QueueManager(Queries(AsyncpgDriver(await asyncpg.connect(url))))

        @queue.entrypoint(entrypoint)
        async def work(job: Job) -> None:
            nonlocal done
            done += 1
            if entrypoint == "pick":
                pickups.append((time.time() - float(job.payload or b"0")) * 1000)

        await queue.run(batch_size=batch, mode=mode, dequeue_timeout=timedelta(seconds=5))

    async def drain(workers: int, batch: int) -> float:
        nonlocal done
        await pool[0].clear_queue()  # of what an earlier drain had no time for
        for _ in range(extent.backlog // ENQUEUE_BATCH):
            await enqueue_many()
        done = 0
        managers = asyncio.gather(*(manager("work", batch, QueueExecutionMode.drain) for _ in range(workers)))
        return await drained(lambda: done, extent.backlog, 2 * extent.seconds, managers)

    figures = Figures()
    picker = asyncio.ensure_future(manager("pick", 1, QueueExecutionMode.continuous))
    await asyncio.sleep(1)
    for _ in range(extent.pickups):
        await pool[0].enqueue("pick", str(time.time()).encode())
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    picker.cancel()
    await asyncio.gather(picker, return_exceptions=True)
    for workers in WORKERS:
        setattr(figures, f"drain_{workers}", await drain(workers, 1))
    figures.drain_batched = await drain(BATCHING_WORKERS, BATCH)
    figures.single = await rate(enqueue_one, CALLERS, extent.seconds)
    figures.batched = await rate(enqueue_many, 1, extent.seconds)
    figures.pickup_p50, figures.pickup_p99 = percentile(pickups, 0.5), percentile(pickups, 0.99)
    return figures


if __name__ == "__main__":
    peer_main(measure)
