"""What an operator sees when a service cannot start: one line that says what to change, and a distinct exit code."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from dbp_client.house import free_port
from tests.scenarios.scripts import script
from tests.support.house import house

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES = ("coordinator_svc", "tool_svc", "jobs_svc", "budget_svc")
PROMPTS = {f"DBP_{short}_PROMPTS_DIR": str(ROOT / "doc/llm/prompts") for short in ("COORDINATOR", "TOOL")}
STALLED = """
  - when: {template: "*"}
    reply: {text: "never", fault: {stall: true, after_chunks: 0}}
"""


async def run_service(name: str, folder: Path, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        name,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=os.environ | PROMPTS | environment,
    )
    try:
        async with asyncio.timeout(30):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, err.decode()


def last_line(err: str) -> str:
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_bad_setting_is_named(service: str, tmp_path: Path) -> None:
    key = f"DBP_{service.removesuffix('_svc').upper()}_DRAIN_SECONDS"
    code, err = await run_service(service, tmp_path, **{key: "soon"})
    assert code == 78
    assert key in last_line(err)
    assert "Traceback" not in err


@pytest.mark.parametrize("service", SERVICES)
async def test_a_taken_port_is_named(service: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, err = await run_service(
            service, tmp_path, **{f"DBP_{service.removesuffix('_svc').upper()}_LISTEN": address}
        )
    assert code == 78
    assert address in last_line(err)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("service", "template"), [("coordinator_svc", "coordinator_main"), ("tool_svc", "coordinator_get_codebase_context")]
)
async def test_a_template_that_cannot_be_used_is_named_with_its_line(
    service: str, template: str, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts"
    shutil.copytree(ROOT / "doc/llm/prompts", prompts)
    key = f"DBP_{service.removesuffix('_svc').upper()}_PROMPTS_DIR"
    listen = {f"DBP_{service.removesuffix('_svc').upper()}_LISTEN": "127.0.0.1:0", key: str(prompts)}
    path = prompts / f"{template}.md"
    path.write_text(path.read_text().replace("{{query}}", "{{query}} {{unheard_of}}"))
    code, err = await run_service(service, tmp_path, **listen)
    assert code == 78
    assert f"{template}.md:" in last_line(err)
    assert "unheard_of" in last_line(err)
    path.unlink()
    code, err = await run_service(service, tmp_path, **listen)
    assert code == 78
    assert f"{template}.md" in last_line(err)


async def test_ctrl_c_cancels_the_request_and_says_so_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch, script(STALLED)) as opened:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dbp_client", "ask", "Where?", "--request-id", "interrupted", "--json", "--timeout", "60s",
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"DBP_COORDINATOR_ADDRESS": opened.common.coordinator_address},
        )  # fmt: skip
        assert process.stdout is not None
        assert b"accepted" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        await process.communicate()
        request = await opened.client.get("interrupted")
    assert process.returncode == 130
    assert request.result.error.message == "the request was cancelled"


@asynccontextmanager
async def dbp_up(tmp_path: Path, data: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`dbp up` on free ports, over a script that never answers."""
    rules = tmp_path / "script.yaml"
    rules.write_text(script(STALLED))
    addresses = {
        f"DBP_{short}_ADDRESS": f"127.0.0.1:{free_port()}" for short in ("COORDINATOR", "JOBS", "BUDGET", "TOOL")
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dbp_client", "up", "--workspace", str(tmp_path),
        "--data", str(tmp_path / data), "--bedrock", str(rules),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | addresses | {"DBP_BEDROCK_LOCAL_PORT": str(free_port())} | environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await process.communicate()


async def is_up(process: asyncio.subprocess.Process) -> bool:
    assert process.stdout is not None
    return b"all services are up" in await process.stdout.readline()


async def test_dbp_up_serves_until_ctrl_c_and_leaves_no_process_however_often_it_is_pressed(tmp_path: Path) -> None:
    async with dbp_up(tmp_path, "data") as process:
        assert await is_up(process)
        children = psutil.Process(process.pid).children()
        assert len(children) == 5
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"stopping" not in await process.stderr.readline():
            continue
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 130
    assert not [child for child in children if child.is_running()]


async def test_dbp_up_does_not_take_another_house_for_its_own(tmp_path: Path) -> None:
    async with dbp_up(tmp_path, "data") as first:
        assert await is_up(first)
        async with dbp_up(tmp_path, "data") as on_the_same_folder:
            _, err = await on_the_same_folder.communicate()
        assert on_the_same_folder.returncode == 1
        assert "is used by another house" in err.decode()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            async with dbp_up(tmp_path, "other", DBP_BUDGET_ADDRESS=address) as on_a_taken_port:
                _, err = await on_a_taken_port.communicate()
        assert on_a_taken_port.returncode == 1
        assert f"budget_svc cannot listen on {address}" in err.decode()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux' setpriv ties the services to their starter")
async def test_a_killed_dbp_up_takes_its_services_along(tmp_path: Path) -> None:
    async with dbp_up(tmp_path, "data") as process:
        assert await is_up(process)
        children = psutil.Process(process.pid).children()
        process.kill()
        await process.communicate()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 20)
    assert (len(gone), alive) == (5, [])
