"""The command as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from local_bedrock.invoice import fetch_invoice

ALONE = (sys.executable, "-m", "local_bedrock")
BY_DBP = (sys.executable, "-m", "dbp_client", "bedrock")


def bedrock(*arguments: str, command: Sequence[str] = ALONE, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("command", "code"), [(ALONE, 0), (BY_DBP, 130)], ids=["alone", "by dbp"])
def test_command_says_where_it_listens_and_stops_on_sigterm(command: Sequence[str], code: int) -> None:
    with bedrock("--port", "0", "--backend", "script", command=command) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.removeprefix("local Bedrock endpoint on ").strip()
        assert url.startswith("http://127.0.0.1:")
        assert fetch_invoice(url) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == code


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        ([], {"DBP_BEDROCK_LOCAL_PORT": "99999"}, "DBP_BEDROCK_LOCAL_PORT"),
        (["--backend", "script", "--script", "nowhere.yaml"], {}, "nowhere.yaml"),
    ],
)
def test_bad_setting_is_one_line_and_exit_code_2(
    arguments: list[str], environment: dict[str, str], complaint: str
) -> None:
    with bedrock(*arguments, **environment) as process:
        _, complaints = process.communicate(timeout=20)
    assert process.returncode == 2
    assert complaint in complaints
    assert len(complaints.splitlines()) == 1
