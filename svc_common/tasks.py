"""Background loops that never die in silence, and work that ends with who asked for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from svc_common.channel import AWAY
from svc_common.errors import ErrorReason, ServiceError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_EXPECTED = AWAY | {ErrorReason.DEADLINE_EXCEEDED}


async def supervised(
    name: str,
    loop: Callable[[], Awaitable[None]],
    *,
    max_pause: float = 1.0,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Runs an endless `loop` again, after a growing pause, whenever it ends. Ends itself when it is cancelled, and when `until` is
    true as the loop ends."""
    pause = 0.05
    clock = asyncio.get_running_loop()
    while True:
        began = clock.time()
        try:
            await loop()
        except ServiceError as error:
            level = logging.DEBUG if error.reason in _EXPECTED else logging.ERROR
            logger.log(level, "%s: %s", name, error)
        except Exception:  # a bug in one loop must neither end it for good nor pass unseen
            logger.exception("%s broke and begins again", name)
        if until():
            return
        if clock.time() - began > 10:
            pause = 0.05
        await asyncio.sleep(pause)
        pause = min(pause * 2, max_pause)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Work that goes on beside a block, and does not outlive it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
