"""A server fast enough not to be the bottleneck: it runs under uvloop in its own process.

It answers `GET /api/v1/backups/` with pages of `page_size` backups out of `total`. With `server_id`
the list has exactly one full page. It answers each POST with a backup of the requested server, and
each DELETE with a 204.
"""

import asyncio
import contextlib
import multiprocessing
import os
import re
import ssl
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs

PAGE_SIZE = 100
_BACKUP = (
    b'{"id":%d,"server":{"id":%d,"name":"web-server-01"},"backup_type":"automatic",'
    b'"status":"completed","size_mb":4523,"created_at":"2025-01-16T03:00:00Z",'
    b'"expires_at":"2025-02-16T03:00:00Z","description":"Automatic daily backup"}'
)
_HEAD = (
    b"HTTP/1.1 %s\r\nServer: nginx\r\nDate: Thu, 16 Jan 2025 15:45:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n"
    b"Vary: Accept\r\nAllow: GET, POST, HEAD, OPTIONS\r\n\r\n"
)
_TARGET = re.compile(rb"GET (\S+) ")
_GONE = b"HTTP/1.1 204 No Content\r\nServer: nginx\r\nDate: Thu, 16 Jan 2025 15:45:00 GMT\r\n\r\n"
_SERVER_ID = re.compile(rb'"server_id":\s*(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


def pin(cpu: int) -> None:
    """Pin this process to the core `cpu` if there are several cores and the system supports it."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {cpu})


def body(ids: range, total: int, *, server_id: int = 12345, link: str | None = None) -> bytes:
    """The JSON of a page, formatted as by the API; `link` is its `next`."""
    numbers = [number for backup_id in ids for number in (backup_id, server_id)]
    backups = b",".join([_BACKUP] * len(ids)) % tuple(numbers)
    following = b"null" if link is None else b'"%s"' % link.encode()
    head = b'{"count":%d,"next":%s,"previous":null,"results":[' % (total, following)
    return head + backups + b"]}"


def reply(content: bytes, status: bytes = b"200 OK") -> bytes:
    """A complete HTTP reply with this body."""
    return _HEAD % (status, len(content)) + content


class Pages:
    """The replies for an account with `total` backups, newest first."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._cache: dict[bytes, bytes] = {}
        self._last_id = total

    def get(self, target: bytes) -> bytes:
        """The reply to a GET; up to 1,000 replies to lists of a single page are cached."""
        return self._cache.get(target) or self._encoded(target)

    def _encoded(self, target: bytes) -> bytes:
        query = parse_qs(target.partition(b"?")[2].decode())
        asked = {name: int(values[0]) for name, values in query.items()}
        size = asked.get("page_size", PAGE_SIZE)
        if "server_id" in asked:
            total, server_id = size, asked["server_id"]
        else:
            total, server_id = self._total, 12345
        page = asked.get("page", 1)
        newest = total - (page - 1) * size
        oldest = max(0, newest - size)
        link = f"/api/v1/backups/?page={page + 1}&page_size={size}" if oldest else None
        answer = reply(body(range(newest, oldest, -1), total, server_id=server_id, link=link))
        if total <= size and len(self._cache) < 1_000:
            self._cache[target] = answer
        return answer

    def post(self, content: bytes) -> bytes:
        """The reply to a create."""
        found = _SERVER_ID.search(content)
        self._last_id += 1
        return reply(_BACKUP % (self._last_id, int(found[1]) if found else 0), b"201 Created")


class _Protocol(asyncio.Protocol):
    def __init__(self, pages: Pages, latency: float) -> None:
        self._pages = pages
        self._latency = latency
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            end += 4
            if found := _TARGET.match(self._unread):
                answer = self._pages.get(found[1])
            elif self._unread.startswith(b"DELETE "):
                answer = _GONE
            else:
                length = _LENGTH.search(self._unread, 0, end)
                whole = end + (int(length[1]) if length else 0)
                if len(self._unread) < whole:
                    return
                answer = self._pages.post(self._unread[end:whole])
                end = whole
            self._unread = self._unread[end:]
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._send, answer)
            else:
                self._send(answer)

    def _send(self, answer: bytes) -> None:
        self._transport.write(answer)  # type: ignore[attr-defined]


def _serve(pipe: Connection, total: int, latency: float, certificate: Path | None) -> None:
    import uvloop  # kept out of the client's process, whose memory is measured

    pin(1)
    pages = Pages(total)
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Protocol(pages, latency), "127.0.0.1", 0, backlog=1024, ssl=context
        )
        pipe.send(server.sockets[0].getsockname()[1])
        async with server:
            await loop.run_in_executor(None, pipe.recv)

    uvloop.run(run())


@contextlib.contextmanager
def serving(
    *, total: int = 0, latency: float = 0.0, certificate: Path | None = None
) -> Iterator[str]:
    """Run a server in its own process during the block; gives its base URL.

    `latency` is the seconds before each reply. With the PEM file of a `certificate` and its key, it
    speaks TLS.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, total, latency, certificate), daemon=True
    )
    process.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{ours.recv()}"
    finally:
        ours.send("stop")
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
