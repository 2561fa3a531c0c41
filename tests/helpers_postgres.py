"""A PostgreSQL cluster of the tests' own, in a temporary folder and on a free loopback port."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from helpers_redis import free_port

PASSWORD = "canary-of-the-database"


def find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None if there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: one.parent.name)
    return folders[-1] if folders else None


class Postgres:
    """A cluster with the user `vps`; it does not run as root, which PostgreSQL refuses."""

    def __init__(self, programs: Path, directory: Path, user: str | None) -> None:
        self._programs = programs
        self._directory = directory
        self._user = user
        self._data = directory / "data"
        self._port = free_port()
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        secret = self._directory / "password"
        secret.write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(self._directory, self._user)
            shutil.chown(secret, self._user)
        options = [
            "-U",
            "vps",
            "--encoding=UTF8",
            "--auth=scram-sha-256",
            f"--pwfile={secret}",
            "--no-sync",
        ]
        subprocess.run(
            [self._programs / "initdb", "-D", self._data, *options],
            check=True,
            capture_output=True,
            user=self._user,
            cwd="/",
        )

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd="/",
            )
        for _ in range(500):
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url_of()):
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError("PostgreSQL did not start")

    def stop(self) -> None:
        """Stop it at once, as a crash does: connections are cut."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: immediate shutdown
            self._process.wait(30)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def url_of(self, name: str = "postgres") -> str:
        return f"postgresql://vps:{PASSWORD}@127.0.0.1:{self._port}/{name}"

    def execute(self, statement: str, name: str = "postgres") -> None:
        with psycopg.connect(self.url_of(name), autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self, options: str = "") -> str:
        """The URL of a new, empty database."""
        self._count += 1
        name = f"test{self._count}"
        self.execute(f"CREATE DATABASE {name} {options}")
        return self.url_of(name)


def _user() -> str | None:
    """The user to run it as: not root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A running cluster during the block. Raises RuntimeError if there is no PostgreSQL."""
    programs = find_programs()
    if programs is None:
        raise RuntimeError("no initdb on the PATH or in /usr/lib/postgresql")
    with tempfile.TemporaryDirectory(prefix="vpsbackups-postgres-") as directory:
        server = Postgres(programs, Path(directory), _user())
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
