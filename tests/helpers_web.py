"""Web servers that run the README's recipes, and clients that read slowly or disconnect."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from attrs import define
from helpers_readme import APPS, README

from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS

FRAMEWORKS = ["fastapi", "starlette", "aiohttp"]
"""The frameworks whose server runs in the tests' own process and event loop."""

SOCKET_BUFFER = 32 * 1024
"""Bytes. Small, so that the kernel's buffers do not hide how far a server reads ahead."""

POLL = 0.05
"""Seconds between polls, in virtual or real time."""


def recipe(framework: str) -> str:
    """The README's code for this framework; skips the test if the framework is not installed."""
    pytest.importorskip(framework, reason=f"{framework} comes with the dev group")
    [block] = [app for app in APPS if re.search(rf"^from {framework}\b", app, re.MULTILINE)]
    return block


def listening_socket() -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)  # inherited by connections
    made.bind(("127.0.0.1", 0))
    made.listen(512)
    return made


@define
class Site:
    """A running web application; `client` returns its only `BackupsClient`.

    `stop` tells uvicorn to end.
    """

    port: int
    client: Callable[[], BackupsClient]
    stop: Callable[[], None] = lambda: None


@asynccontextmanager
async def serving(
    framework: str, names: dict[str, Any] | None = None, *, handler_cancellation: bool = True
) -> AsyncIterator[Site]:
    """Serve the framework's recipe, or the application in `names`, on a real server."""
    if names is None:
        names = {"__name__": "recipe"}
        exec(compile(recipe(framework), str(README), "exec"), names)
    sock = listening_socket()
    port = sock.getsockname()[1]
    app = names["app"]

    def client() -> BackupsClient:
        made = app[names["CLIENT"]] if framework == "aiohttp" else app.state.backups
        assert isinstance(made, BackupsClient)
        return made

    if framework == "aiohttp":
        runner = web.AppRunner(
            app, handler_cancellation=handler_cancellation, access_log=None, shutdown_timeout=5
        )
        await runner.setup()
        await web.SockSite(runner, sock).start()
        try:
            yield Site(port, client)
        finally:
            await runner.cleanup()
        return
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn comes with the dev group")
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    # The socket is listening already, so early connections wait in its backlog.
    running = asyncio.create_task(server.serve(sockets=[sock]))

    def stop() -> None:
        server.should_exit = True

    try:
        yield Site(port, client, stop)
    finally:
        stop()
        await running


class Reader:
    """An HTTP connection on which a test decides when to read what."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def head(self) -> int:
        """Read the head of the reply and return the status."""
        async with asyncio.timeout(30):
            first, *rest = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in rest if line)
        }
        return self.status

    async def chunk(self) -> bytes:
        """Read the next chunk of the body; it is empty at the end."""
        async with asyncio.timeout(30):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        """Read the rest of the body."""
        async with asyncio.timeout(30):
            if "content-length" in self.headers:
                return await self._reader.readexactly(int(self.headers["content-length"]))
            return b"".join([chunk async for chunk in self._chunks()])

    async def _chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self.chunk():
            yield chunk

    async def leave(self) -> None:
        """Abort the connection, without an orderly close."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def asking(port: int, path: str, method: str = "GET") -> AsyncIterator[Reader]:
    """Send a request; the block decides what to read of the reply."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode())
    writer.write(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
    asked = Reader(reader, writer)
    try:
        yield asked
    finally:
        await asked.leave()


async def answer(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Send a request and return the status and body of the reply."""
    async with asking(port, path, method) as reader:
        return await reader.head(), await reader.body()


async def until(condition: Callable[[], object]) -> None:
    """Poll until the condition is true. Raises TimeoutError after 100 s."""
    async with asyncio.timeout(100):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(POLL)


async def standstill(fake: FakeVPS) -> None:
    """Wait until the fake gets no request for 500 iterations of the loop."""
    async with asyncio.timeout(30):
        quiet, before = 0, -1
        while quiet < 500:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(fake.requests) == before else 0
            before = len(fake.requests)
