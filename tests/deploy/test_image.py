"""The image, as far as it can be shown without building it: what goes in is all there, and its wheel runs alone.

The wheel is put into a virtual environment that has the dependencies and not this folder, laid out as the image is; there each
Deployment's command is started with the image's and the manifests' variables.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.deploy.manifests import ROOT, container_of, environment, of_kind, pod_of, render
from tools.settings_reference import CLASSES, environment_names, settings_class

HOME = "/var/lib/dbp"
PREFIX = "/opt/dbp"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: the word and what follows it, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied_sources() -> dict[str, str]:
    """Destination of each file or folder that comes from this repository."""
    copies = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    return {source: destination for *sources, destination in copies for source in sources}


def image_variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for word, rest in instructions() if word == "ENV" for pair in rest.split())


def packages() -> list[str]:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    return list(wheel["packages"])


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_exactly_what_is_copied_exists_and_is_let_through() -> None:
    sources = copied_sources()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignored, *let_through = (
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith(("#", "**/"))
    )
    assert ignored == "*"
    assert {line.removeprefix("!") for line in let_through} == set(sources)
    assert [name for name in packages() if name.split("/")[0] not in sources] == []


def test_the_image_runs_as_the_user_and_in_the_folders_the_pods_have() -> None:
    last_stage = "\n".join(f"{word} {rest}" for word, rest in instructions()).rpartition("\nFROM ")[2]
    assert 'ENTRYPOINT ["python", "-m"]' in last_stage
    assert f"WORKDIR {HOME}" in last_stage
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert {base.partition(":")[2] for base in bases} == {"3.12-slim-bookworm"}
    deployment = of_kind(render("base"), "Deployment")["jobs"]
    user = pod_of(deployment)["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in last_stage
    assert HOME in [mount["mountPath"] for mount in container_of(deployment)["volumeMounts"]]


def test_every_setting_of_the_image_exists() -> None:
    known = {name for cls in CLASSES for name in environment_names(settings_class(cls))}
    assert {name for name in image_variables() if name.startswith("DBP_")} <= known


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
    pip = [sys.executable, "-m", "pip", "wheel", *options, str(folder), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *packages()], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    # A package under a folder, protos/dbp, is at the top in the wheel.
    expected = {name.removeprefix("protos/") for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as files:
        held = set(files.namelist())
    assert expected - held == set()
    for sort in ("_pb2.py", "_pb2_grpc.py", ".pyi", ".proto", "py.typed", ".toml", "migrations/env.py"):
        assert any(name.endswith(sort) for name in held), sort


@dataclass(frozen=True)
class Installed:
    """The image laid out in a folder: `prefix` stands for /opt/dbp and `home` for /var/lib/dbp."""

    prefix: Path
    home: Path

    def localised(self, value: str) -> str:
        return value.replace(PREFIX, str(self.prefix)).replace(HOME, str(self.home))

    def files(self) -> set[Path]:
        return set(self.prefix.rglob("*"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    root = tmp_path_factory.mktemp("image")
    image = Installed(root / "opt", root / "home")
    image.home.mkdir()
    venv.create(image.prefix, symlinks=True)
    packages_folder = Path(
        sysconfig.get_path("purelib", "venv", {"base": str(image.prefix), "platbase": str(image.prefix)})
    )
    # A folder named in a .pth file is searched, but .pth files in it are not: this repository's editable install stays out.
    (packages_folder / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(packages_folder)
    for source, destination in copied_sources().items():
        if destination.startswith(PREFIX):
            shutil.copytree(ROOT / source, image.localised(destination))
    return image


@contextmanager
def started(image: Installed, module: str, variables: Mapping[str, str]) -> Iterator[int]:
    """Runs the image with `module`; the value is the port it says it serves on. It must end well when it is told to."""
    process = subprocess.Popen(
        [image.prefix / "bin" / "python", "-m", module],
        cwd=image.home,
        env=dict(variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield served_port(process)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
    finally:
        process.kill()
        process.wait()


def served_port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line)
        if serving := re.search(r"serves on port (\d+)", line):
            return int(serving[1])
    return pytest.fail(f"it ended before it served:\n{''.join(log)}")


def health(port: int) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    return int(answer.status)


def test_every_deployments_command_serves_from_the_wheel_alone(installed: Installed, tmp_path: Path) -> None:
    objects = render("base")
    before = installed.files()
    (tmp_path / "workspace").mkdir()
    secrets = {
        ("dbp-auth", "token"): "a-token",
        ("dbp-database", "jobs-url"): f"sqlite:///{installed.home}/jobs.sqlite",
        ("dbp-database", "budget-url"): f"sqlite:///{installed.home}/budget.sqlite",
    }
    here = {name: installed.localised(value) for name, value in image_variables().items()}
    here["PATH"] = os.environ["PATH"]

    @contextmanager
    def running(name: str, addresses: Mapping[str, str]) -> Iterator[dict[str, str]]:
        deployment = of_kind(objects, "Deployment")[name]
        (module,) = container_of(deployment)["args"]
        service = name.removesuffix("-worker").upper()
        variables = {
            **here,
            **environment(objects, deployment, secrets),
            **addresses,
            f"DBP_{service}_LISTEN": "127.0.0.1:0",
            "DBP_TOOL_WORKSPACES": f"default={tmp_path / 'workspace'}",
        }
        with started(installed, module, variables) as port:
            assert health(port) == health_pb2.HealthCheckResponse.SERVING
            yield {**addresses, f"DBP_{service}_ADDRESS": f"127.0.0.1:{port}"}

    with (
        running("jobs", {}) as keepers,
        running("budget", keepers) as keepers,
        running("tool", keepers) as all_but_front,
        running("tool-worker", all_but_front),
        running("coordinator", all_but_front),
    ):
        pass
    assert installed.files() == before, "a read-only root would not have allowed it"
