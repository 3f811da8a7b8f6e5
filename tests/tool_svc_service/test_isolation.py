"""What one call's preparation does harms no other call, no lease and no stop."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from dbp.common.v1 import common_pb2
from dbp.jobs.v1 import jobs_pb2

from svc_common.channel import call
from tests.tool_svc_service.house import PROMPTS, ToolHouse
from tests.tool_svc_service.unruly import (
    UNRULY,
    Crashes,
    EatsMemory,
    Exits,
    Fails,
    Ruly,
    RunsAway,
    Unruly,
    write_templates,
)
from tool_svc.tools import TOOLS
from tool_svc.workspaces import Workspaces

UNRULY_SERVICE = "tests.tool_svc_service.unruly"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(PROMPTS, tmp_path / "prompts"))
    write_templates(folder)
    return folder


async def preparing(house: ToolHouse, job_id: str, tool: type[Unruly], *, seconds: float = 60) -> int:
    """Submits a call of an unruly tool; returns the id of the process that prepares it, once it does."""
    os.mkfifo(fifo := house.folder / f"{job_id}.fifo")
    told = asyncio.StreamReader()
    pipe = open(os.open(fifo, os.O_RDWR), "rb", buffering=0)  # noqa: ASYNC230, SIM115
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), pipe)
    try:
        await house.submit(job_id, tool.name, seconds=seconds, query=str(fifo))
        return int(await asyncio.wait_for(told.read(20), 60))
    finally:
        transport.close()


async def start_unruly(house: ToolHouse, prompts: Path) -> None:
    await house.start_tools((*TOOLS, *UNRULY), prompts_dir=prompts, prepare_processes=1, prepare_memory_mb=256)


async def test_a_call_succeeds_beside_runaways_that_hold_the_only_process_and_no_lease_is_lost(
    house: ToolHouse, prompts: Path
) -> None:
    await start_unruly(house, prompts)
    for job_id in ("away-1", "away-2"):
        await preparing(house, job_id, RunsAway, seconds=15)
    await house.submit("good")
    good = await house.ended("good")
    assert (good.state, good.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, 1)
    assert (await job(house, "away-1")).state == common_pb2.JOB_STATE_RUNNING
    away = await house.ended("away-1")
    assert (away.state, away.attempt, away.end_reason) == (
        common_pb2.JOB_STATE_FAILED,
        1,
        common_pb2.END_REASON_TIMEOUT,
    )


@pytest.mark.parametrize(
    ("tool", "complaint"),
    [
        (EatsMemory, "more than the 256 MB of memory"),
        (Exits, "ended the process"),
        (Crashes, "ended the process"),
        (Fails, "preparing the context failed"),
    ],
)
async def test_what_goes_wrong_ends_its_own_call_alone_and_says_how(
    house: ToolHouse, prompts: Path, tool: type[Unruly], complaint: str
) -> None:
    await start_unruly(house, prompts)
    await preparing(house, "bad", tool)
    await house.submit("good")
    good, bad = await house.ended("good"), await house.ended("bad")
    assert (good.state, good.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, 1)
    assert (bad.state, bad.end_reason) == (common_pb2.JOB_STATE_FAILED, common_pb2.END_REASON_INTERNAL_ERROR)
    assert complaint in bad.error_message


async def test_a_process_that_was_killed_costs_no_call(house: ToolHouse, prompts: Path) -> None:
    await start_unruly(house, prompts)
    process_id = await preparing(house, "first", Ruly)
    await house.ended("first")
    os.kill(process_id, signal.SIGKILL)
    await house.submit("second")
    second = await house.ended("second")
    assert (second.state, second.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, 1)


async def test_aborting_a_call_ends_its_preparation(house: ToolHouse, prompts: Path) -> None:
    await start_unruly(house, prompts)
    process = psutil.Process(await preparing(house, "away", RunsAway))
    await call(house.jobs.AbortJobs, jobs_pb2.AbortJobsRequest(job_ids=["away"]))
    await gone(process)


async def test_sigterm_gives_the_jobs_of_runaways_back_in_time(house: ToolHouse, prompts: Path) -> None:
    service = await house.start_worker_process(UNRULY_SERVICE, prompts_dir=prompts)
    away = [psutil.Process(await preparing(house, job_id, RunsAway)) for job_id in ("away-1", "away-2", "away-3")]
    service.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(service.wait(), 10) == 0
    await gone(*away)
    released = await job(house, "away-1")
    assert (released.state, released.attempt) == (common_pb2.JOB_STATE_QUEUED, 0)


async def test_a_runaway_outlives_its_killed_service_until_its_deadline_at_the_latest(
    house: ToolHouse, prompts: Path
) -> None:
    service = await house.start_worker_process(UNRULY_SERVICE, prompts_dir=prompts)
    away = psutil.Process(await preparing(house, "away", RunsAway, seconds=20))
    service.kill()
    await gone(away)


async def test_sigterm_does_not_wait_for_an_index_that_is_being_built(house: ToolHouse) -> None:
    indexes = house.folder / "cache" / "indexes"
    Workspaces({"default": house.workspace}, indexes).refresh("default")
    (house.workspace / "new.py").write_text("x = 1\n")
    (lock,) = indexes.glob("*/lock")
    with lock.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        service = await house.start_worker_process()
        await house.submit("waiting")
        await anext(event async for event in house.events("waiting") if event.HasField("note"))
        service.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(service.wait(), 20) == 0


async def job(house: ToolHouse, job_id: str) -> jobs_pb2.Job:
    return (await call(house.jobs.GetJob, jobs_pb2.GetJobRequest(job_id=job_id))).job


async def gone(*processes: psutil.Process) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 30)
    assert not alive
