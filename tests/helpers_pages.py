"""A server with a list of any length; it encodes pages on request, so a million need no memory."""

import asyncio
import re
from typing import Final, cast

PAGE: Final = 100
_BACKUP: Final = (
    b'{"id":%d,"server":{"id":12345,"name":"web-server-1"},"backup_type":"automatic",'
    b'"status":"completed","size_mb":4096,"created_at":"2026-01-16T02:00:00Z",'
    b'"expires_at":"2026-02-16T02:00:00Z","description":"Automatic daily backup"}'
)


class Pages(asyncio.Protocol):
    """One connection to a list of `total` backups, 100 a page, with ids descending to 1."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transport has the methods but not the type.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while b"\r\n\r\n" in self._unread:
            head, _, self._unread = self._unread.partition(b"\r\n\r\n")
            asked = re.search(rb"[?&]page=(\d+)", head)
            body = self._page(int(asked[1]) if asked else 1)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )

    def _page(self, number: int) -> bytes:
        first = self._total - (number - 1) * PAGE
        ids = range(first, max(0, first - PAGE), -1)
        more = first - PAGE > 0
        link = b'"/api/v1/backups/?page=%d&page_size=100"' % (number + 1) if more else b"null"
        return b'{"count":%d,"next":%s,"previous":null,"results":[%s]}' % (
            self._total,
            link,
            b",".join(_BACKUP % backup_id for backup_id in ids),
        )


async def serve_pages(total: int, port: int = 0) -> asyncio.Server:
    """Start a server on 127.0.0.1 that lists `total` backups; port 0 picks a free one."""
    return await asyncio.get_running_loop().create_server(lambda: Pages(total), "127.0.0.1", port)
