"""The command that runs the endpoint alone, as `dbp bedrock` and `python -m local_bedrock`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from local_bedrock.backends.script import ScriptError
from local_bedrock.server import start
from local_bedrock.settings import LocalBedrockSettings
from svc_common.settings import SettingsError, load

EXIT_BAD_USAGE = 2


def main(argv: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM. Prints `local Bedrock endpoint on URL` once it answers. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="dbp bedrock", description="Bedrock Runtime's protocol on this machine.")
    parser.add_argument("--host", help="address to bind (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="TCP port; 0 takes a free one (default 8790)")
    parser.add_argument("--backend", choices=("llama", "script"), help="the bundled model, or a script")
    parser.add_argument("--script", help="script backend: YAML file or package.module:function")
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    try:
        return asyncio.run(_serve(load(LocalBedrockSettings, **given)))
    except (SettingsError, ScriptError, OSError) as error:
        sys.stderr.write(f"{error}\n")
    return EXIT_BAD_USAGE


async def _serve(settings: LocalBedrockSettings) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with await start(settings) as endpoint:
        sys.stdout.write(f"local Bedrock endpoint on {endpoint.url}\n")
        sys.stdout.flush()
        await stopped.wait()
    return 0
