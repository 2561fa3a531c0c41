"""Shared by the tests of the transport: calls, raw servers, and a limiter that records calls."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from attrs import define, field

from vpsbackups_async import BackupsClient, ConstantBackoff, Observation, RetryPolicy

Verb = Callable[[BackupsClient], Awaitable[Any]]

VERBS: Mapping[str, Verb] = {
    "list": lambda client: client.list().collect(),
    "delete": lambda client: client.delete(1),
    "create": lambda client: client.create(1),
    "restore": lambda client: client.restore(1, 1, check=False),
}
METHODS = {"list": "GET", "delete": "DELETE", "create": "POST", "restore": "POST"}

BACKUP = (
    b'{"id":1,"server":{"id":1,"name":"a"},"backup_type":"manual","status":"completed",'
    b'"size_mb":1,"created_at":"2025-01-01T00:00:00Z","expires_at":null,"description":""}'
)
PAGE = b'{"count":1,"next":null,"previous":null,"results":[' + BACKUP + b"]}"


def at_once(attempts: int = 3, **more: Any) -> RetryPolicy:
    """A retry policy without pauses."""
    return RetryPolicy(attempts=attempts, backoff=ConstantBackoff(0), create_grace=0, **more)


def http(status: int = 200, body: bytes = PAGE, **headers: str) -> bytes:
    """A complete HTTP reply."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def good(request: bytes) -> bytes:
    """The reply of a healthy server to this request."""
    method, target, *_ = request.split(b" ", 2)
    if method == b"GET":
        return http()
    if method == b"DELETE":
        return http(204, b"")
    return http(202, b"{}") if b"restore" in target else http(201, BACKUP)


@define(eq=False)
class RawServer:
    """A server on plain sockets: `answer` returns the bytes of a reply, or None to disconnect.

    With `then_close` it closes each connection after one reply, as servers close idle ones.
    """

    answer: Callable[[bytes], bytes | None] = good
    then_close: bool = False
    ssl_context: ssl.SSLContext | None = None
    requests: list[bytes] = field(factory=list, repr=False)  # they contain the token
    connections: int = 0
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(factory=set)
    _tasks: set["asyncio.Task[None]"] = field(factory=set)

    @property
    def url(self) -> str:
        return f"{'https' if self.ssl_context else 'http'}://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = [line for line in head.split(b"\r\n") if b"ontent-Length" in line]
                length = int(lines[0].partition(b":")[2]) if lines else 0
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                reply = self.answer(request)
                if reply is None:
                    return
                writer.write(reply)
                await writer.drain()
                if self.then_close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["RawServer"]:
        server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.ssl_context
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """The port of a server that accepts connections and never sends anything."""

    class Silent(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transports.append(transport)

    transports: list[Any] = []
    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in transports:
            transport.abort()
        await server.wait_closed()


def closed_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts for a server at 127.0.0.1 and for a client that trusts its private CA."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class CountingLimiter:
    """A minimal limiter that records the calls of `acquire` and `observe`, and limits nothing."""

    def __init__(self) -> None:
        self.acquired: list[str] = []
        self.observed: list[Observation] = []

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        await asyncio.sleep(0)
        self.acquired.append(kind)

    def observe(self, outcome: Observation) -> None:
        self.observed.append(outcome)


class Resolver(AbstractResolver):
    """Resolves every name to 127.0.0.1 and counts the lookups.

    With `fails` it raises OSError instead, and with `hangs` it never returns.
    """

    def __init__(self, *, fails: bool = False, hangs: bool = False) -> None:
        self.lookups = 0
        self.fails = fails
        self.hangs = hangs

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.lookups += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise OSError(None, "Name or service not known")
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        pass


def session_with(resolver: Resolver, **more: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=resolver), **more)


class Wire(asyncio.Protocol):
    """One connection of `wired_server`: how many requests came, and its transport to write to."""

    def __init__(self, answer: Callable[[bytes], list[bytes | None]]) -> None:
        self._answer = answer
        self._unread = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, end, rest = self._unread.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and len(rest) >= (int(length[1]) if length else 0):
            request, self._unread = self._unread, b""
            self.requests += 1
            task = asyncio.ensure_future(self._reply(self._answer(request)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reply(self, pieces: list[bytes | None]) -> None:
        """Write the pieces one by one, so that the client reads each for itself."""
        for piece in pieces:
            if piece is None:
                self.transport.close()
                return
            self.transport.write(piece)
            for _ in range(5):
                await asyncio.sleep(0)


@define(eq=False)
class Wires:
    """The connections of a `wired_server`, and its address."""

    url: str
    all: list[Wire]


@asynccontextmanager
async def wired_server(
    answer: Callable[[bytes], list[bytes | None]] = lambda request: [good(request)],
) -> AsyncIterator[Wires]:
    """A server whose connections a test can write to; `answer` gives a reply in pieces.

    A piece that is None closes the connection.
    """
    wires: list[Wire] = []

    def connected() -> Wire:
        wires.append(Wire(answer))
        return wires[-1]

    server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    try:
        yield Wires(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", wires)
    finally:
        server.close()
        for wire in wires:
            wire.transport.abort()
            await wire.ended
        await server.wait_closed()
