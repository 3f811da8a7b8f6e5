"""All services on one machine: started in order, watched, restarted when they die, stopped by one signal.

Each service is a process of its own and is reached by gRPC, as in a cluster; only the addresses in its environment differ.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from local_bedrock.settings import LocalBedrockSettings
from svc_common.channel import open_channel
from svc_common.settings import CommonSettings, load

logger = logging.getLogger(__name__)

BEDROCK = "local_bedrock"
# Keepers before doers; stopped in the opposite order, so that whoever works can still report.
SERVICES = ("jobs_svc", "budget_svc", "tool_svc", "coordinator_svc")
LOCAL_MODEL = "local.smollm2-135m"
# The services look for prompts in their working directory, but a house may be started from anywhere.
PROMPTS = Path(__file__).resolve().parent.parent / "doc/llm/prompts"

_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_HEALTHY_SECONDS = 10.0


class HouseError(Exception):
    """The house cannot be started; the message is for a person."""


@dataclass
class House:
    """`data` holds the SQLite files and logs. `bedrock` is "local" for the bundled model, "aws" for the real thing, or the path
    of a script for the local endpoint. `free_ports` takes any free ports instead of the configured ones. `environment` is added
    to that of the services."""

    data: Path
    workspaces: Mapping[str, Path]
    bedrock: str = "local"
    free_ports: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: CommonSettings = field(default_factory=lambda: load(CommonSettings))
    _processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _watchers: list[asyncio.Task[None]] = field(default_factory=list)
    _environment: dict[str, str] = field(default_factory=dict)
    _held: ExitStack = field(default_factory=ExitStack)

    async def __aenter__(self) -> House:
        self._take_data_folder()
        if self.free_ports:
            ports = {name: f"127.0.0.1:{free_port()}" for name in SERVICES}
            self.settings = self.settings.model_copy(
                update={f"{name.removesuffix('_svc')}_address": address for name, address in ports.items()}
            )
        try:
            self._environment = self._build_environment()
            self._check_ports()
            if self.bedrock != "aws":
                await self._start(BEDROCK)
            for name in SERVICES:
                await self._start(name)
            await asyncio.gather(*(self._wait_until_ready(name) for name in self._processes))
        except BaseException:
            await self._stop()
            raise
        self._watchers = [asyncio.create_task(self._keep_alive(name)) for name in self._processes]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def process_id(self, name: str) -> int:
        """Process id of a service, e.g. to see what its death does."""
        return self._processes[name].pid

    def address(self, name: str) -> str:
        return str(getattr(self.settings, f"{name.removesuffix('_svc')}_address"))

    @property
    def bedrock_url(self) -> str:
        """Where the local Bedrock endpoint is."""
        return self._environment["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"]

    def command(self, name: str) -> list[str]:
        """What a service is started with."""
        # Where it can be had, a parent that is killed takes its services along.
        with_parent = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        return [*with_parent, sys.executable, "-m", name]

    def log_of(self, name: str) -> Path:
        return self.data / f"{name}.log"

    async def is_serving(self, name: str) -> bool:
        """Whether a service says that it is healthy."""
        channel = open_channel(self.address(name), self.settings)
        try:
            request = health_pb2.HealthCheckRequest()
            response = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=1.0)
            return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
        except grpc.aio.AioRpcError:
            return False
        finally:
            await channel.close(None)

    def _take_data_folder(self) -> None:
        """One house at a time: a SQLite file has one writing process."""
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            lock = self._held.enter_context((self.data / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._held.close()
            raise HouseError(
                f"{self.data} is used by another house that is up; choose another folder by --data"
            ) from error
        except OSError as error:
            raise HouseError(f"{self.data} cannot be used: {error.strerror}") from error

    def _check_ports(self) -> None:
        """A service that finds its port taken would die, while another house's answers in its place."""
        taken = {name: self.address(name) for name in SERVICES if not _is_free(self.address(name))}
        if self.bedrock != "aws" and not _is_free(address := self.bedrock_url.removeprefix("http://")):
            taken[BEDROCK] = address
        for name, address in taken.items():
            raise HouseError(f"{name} cannot listen on {address}: the port is in use; is another house up?")

    def _build_environment(self) -> dict[str, str]:
        common = self.settings
        environment = {**os.environ, **self.environment}
        for name in SERVICES:
            short = name.removesuffix("_svc").upper()
            environment[f"DBP_{short}_ADDRESS"] = environment[f"DBP_{short}_LISTEN"] = self.address(name)
        environment |= {
            "DBP_AUTH_TOKEN": common.auth_token,
            "DBP_TRACES": common.traces,
            "DBP_TOOL_WORKSPACES": ",".join(f"{name}={path}" for name, path in self.workspaces.items()),
            "DBP_TOOL_CACHE_DIR": str(self.data / "cache"),
            "PYTHONUNBUFFERED": "1",
        }
        for short in ("COORDINATOR", "TOOL"):
            environment.setdefault(f"DBP_{short}_PROMPTS_DIR", str(PROMPTS))
        for short in ("JOBS", "BUDGET"):
            environment.setdefault(
                f"DBP_{short}_DATABASE_URL", f"sqlite:///{self.data.resolve() / short.lower()}.sqlite"
            )
        if self.bedrock != "aws":
            environment |= self._local_bedrock_environment()
        return environment

    def _local_bedrock_environment(self) -> dict[str, str]:
        port = free_port() if self.free_ports else load(LocalBedrockSettings).port
        environment = {
            "DBP_BEDROCK_LOCAL_PORT": str(port),
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
        if self.bedrock == "local":
            roles = {role: [LOCAL_MODEL] for role in ("coordinator", "fast", "expert")}
            environment |= {"DBP_BEDROCK_LOCAL_BACKEND": "llama", "DBP_LLM_ROLES": json.dumps(roles)}
        else:
            environment |= {"DBP_BEDROCK_LOCAL_BACKEND": "script", "DBP_BEDROCK_LOCAL_SCRIPT": self.bedrock}
        return environment

    async def _start(self, name: str) -> None:
        with self.log_of(name).open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *self.command(name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                # Out of the terminal's process group: Ctrl-C is for us, and we stop the services in order.
                start_new_session=True,
            )

    async def _wait_until_ready(self, name: str) -> None:
        is_ready = self._bedrock_listens if name == BEDROCK else partial(self.is_serving, name)
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        while self._processes[name].returncode is None:
            if await is_ready():
                return
            if asyncio.get_running_loop().time() > deadline:
                raise HouseError(f"{name} was not ready within {_READY_SECONDS:.0f} s: {self._last_words(name)}")
            await asyncio.sleep(0.05)
        raise HouseError(f"{name} did not start: {self._last_words(name)}")

    async def _bedrock_listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(self._environment["DBP_BEDROCK_LOCAL_PORT"]))
        except OSError:
            return False
        writer.close()
        return True

    def _last_words(self, name: str) -> str:
        lines = self.log_of(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"see {self.log_of(name)}"

    async def _keep_alive(self, name: str) -> None:
        pause = 0.1
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            code = await self._processes[name].wait()
            logger.warning("%s ended with code %d and is started again; its log is %s", name, code, self.log_of(name))
            if loop.time() - began > _HEALTHY_SECONDS:
                pause = 0.1
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
            await self._start(name)

    async def _stop(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for name in reversed(list(self._processes)):
            process = self._processes[name]
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
                except TimeoutError:
                    process.kill()
                    await process.wait()
        self._held.close()


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(address: str) -> bool:
    """Whether a service could listen on `host:port`; what cannot be tried here (another host, a name) may well be."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what lingers of ended connections is no obstacle
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
        except ValueError:
            return True
    return True
