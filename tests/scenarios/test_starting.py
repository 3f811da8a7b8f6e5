"""What an operator sees when a service cannot start: one line that says what to change, and a distinct exit code."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.scenarios.scripts import script
from tests.support.house import house, small_repository

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


async def test_dbp_up_serves_until_ctrl_c_and_leaves_no_process(tmp_path: Path) -> None:
    rules = tmp_path / "script.yaml"
    rules.write_text(script(STALLED))
    environment = dict(os.environ)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        environment["DBP_BEDROCK_LOCAL_PORT"] = str(one.getsockname()[1])
    for short in ("COORDINATOR", "JOBS", "BUDGET", "TOOL"):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            environment[f"DBP_{short}_ADDRESS"] = f"127.0.0.1:{one.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dbp_client", "up", "--workspace", str(small_repository(tmp_path / "w")),
        "--data", str(tmp_path / "data"), "--bedrock", str(rules),
        stdout=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert b"all services are up" in await process.stdout.readline()
    children = psutil.Process(process.pid).children()
    assert len(children) == 5
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    assert not [child for child in children if child.is_running()]
