"""What the benches compare with lives in environments of its own, made at the first run beneath `.bench-venv`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".bench-venv"
_INSTALL_SECONDS = 600


class PeerMissing(Exception):
    """A peer that cannot be measured here; the message says why."""


def python_with(name: str, packages: Sequence[str]) -> Path:
    """The Python of the environment of this name, which has these packages. Raises PeerMissing."""
    folder = FOLDER / name
    python, done = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(packages)
    if not done.exists() or done.read_text() != wanted:
        run_peer([sys.executable, "-m", "venv", str(folder)], _INSTALL_SECONDS)
        run_peer(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], _INSTALL_SECONDS
        )
        done.write_text(wanted)
    return python


def run_peer(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints, run from the project's root. Raises PeerMissing when it cannot be run, fails or takes too long."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(str(error)) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise PeerMissing(lines[-1])
    return done.stdout
