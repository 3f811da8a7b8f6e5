"""Procrastinate: one worker process, its concurrency the number of workers."""

from __future__ import annotations

import asyncio
import time

import procrastinate

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


async def measure(url: str, extent: Extent) -> Figures:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, max_size=20))
    done = 0  # of the drain at hand
    pickups: list[float] = []

    @app.task(name="work", queue="work")
    async def work() -> None:
        nonlocal done
        done += 1

    @app.task(name="pick", queue="pick")
    async def pick(began: float) -> None:
        pickups.append((time.time() - began) * 1000)

    async def enqueue_one() -> int:
        await work.defer_async()
        return 1

    async def enqueue_many() -> int:
        await work.batch_defer_async(*({} for _ in range(ENQUEUE_BATCH)))
        return ENQUEUE_BATCH

    async def drain(workers: int) -> float:
        nonlocal done
        # Of what an earlier drain had no time for.
        await app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")
        for _ in range(extent.backlog // ENQUEUE_BATCH):
            await enqueue_many()
        done = 0
        running = app.run_worker_async(queues=["work"], concurrency=workers, wait=False, install_signal_handlers=False)
        return await drained(lambda: done, extent.backlog, 2 * extent.seconds, running)

    figures = Figures()
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.ensure_future(
            app.run_worker_async(queues=["pick"], concurrency=4, install_signal_handlers=False)
        )
        await asyncio.sleep(1)
        for _ in range(extent.pickups):
            await pick.defer_async(began=time.time())
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        for workers in WORKERS:
            setattr(figures, f"drain_{workers}", await drain(workers))
        figures.drain_batched = figures.drain_64  # it has no batches: this is the best it does
        figures.single = await rate(enqueue_one, CALLERS, extent.seconds)
        figures.batched = await rate(enqueue_many, 1, extent.seconds)
    figures.pickup_p50, figures.pickup_p99 = percentile(pickups, 0.5), percentile(pickups, 0.99)
    return figures


if __name__ == "__main__":
    peer_main(measure)
