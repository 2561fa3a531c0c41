"""S1 to S3: the client's CPU time per request, compared with a plain loop and other clients.

Each side runs in its own process on one core, the server on another. The sides take turns, and the
best of several rounds counts.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks._server import pin, serving
from benchmarks._sides import AT_ONCE, cost, generate
from benchmarks._table import Verdict

_ROUNDS = 7
_FEW_ROUNDS = 3
_FAST = ("ours", "loop")
_SLOW = ("httpx_pydantic", "vps_mcp", "generated")


class _RequestLoop(asyncio.Protocol):
    """Sends the next request as soon as the reply to the last one has arrived.

    `length` is the size of each reply in bytes.
    """

    def __init__(self, request: bytes, length: int, requests: int, done: asyncio.Event) -> None:
        self._request = request
        self._length = length
        self._left = requests
        self._done = done
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received >= self._length:
            self._received -= self._length
            self._send()

    def _send(self) -> None:
        if not self._left:
            self._done.set()
            return
        self._left -= 1
        self._transport.write(self._request)  # type: ignore[attr-defined]


async def _ceiling(url: str, size: int, requests: int) -> float:
    host, _, port = url.removeprefix("http://").partition(":")
    target = f"/api/v1/backups/?server_id=12345&page_size={size}"
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = len(head) + int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    writer.close()
    await writer.wait_closed()
    loop = asyncio.get_running_loop()
    ends = [asyncio.Event() for _ in range(AT_ONCE)]
    began = time.perf_counter()
    connections = [
        await loop.create_connection(
            lambda end=end: _RequestLoop(request, length, requests // AT_ONCE, end), host, int(port)
        )
        for end in ends
    ]
    for end in ends:
        await end.wait()
    took = time.perf_counter() - began
    for transport, _ in connections:
        transport.close()
    return requests / took


def _print_ceiling(url: str, size: int, requests: int) -> None:
    import uvloop  # to keep the cost of this client low

    rate = uvloop.run(_ceiling(url, size, requests))
    print(f"the server's ceiling with {size} a page: {rate:,.0f} requests a second")


def run(verdict: Verdict) -> None:
    """Measure both page sizes, on asyncio's own loop and on uvloop, and then the other clients."""
    pin(0)
    requests = verdict.size(10_000, 200)
    rounds = verdict.size(_ROUNDS, 1)
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        for size in (1, 100):
            _print_ceiling(url, size, requests)
        for name, size, target in (("S1", 1, 0.82), ("S2", 100, 0.85)):
            for uvloop in (False, True):
                _against_the_loop(verdict, name, url, size, target, requests, rounds, uvloop=uvloop)
        _against_peers(verdict, url, folder)


def _against_the_loop(
    verdict: Verdict,
    name: str,
    url: str,
    size: int,
    target: float,
    requests: int,
    rounds: int,
    *,
    uvloop: bool,
) -> None:
    best = dict.fromkeys(_FAST, float("inf"))
    for _ in range(rounds):
        for side in _FAST:
            spent = cost(side, url, size, requests, uvloop=uvloop)
            best[side] = min(best[side], spent)
    pages = "1 backup" if size == 1 else f"{size} backups"
    title = f"a request on uvloop, {pages}" if uvloop else f"{name} a request, {pages}"
    verdict.compare(
        f"{title} a page",
        best["ours"],
        best["loop"],
        1.0 if uvloop else target,
        loop=best["loop"],
    )


def _against_peers(verdict: Verdict, url: str, folder: str) -> None:
    requests, rounds = verdict.size(1_000, 100), verdict.size(_FEW_ROUNDS, 1)
    sides = ("ours", *_SLOW)
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for side in sides:
            count = verdict.size(10_000, 100) if side == "ours" else requests
            best[side] = min(best[side], cost(side, url, 100, count, path=folder))
    ours = best.pop("ours")
    least = min(best["vps_mcp"], best["generated"]) / ours
    verdict.record(
        "S3 the other clients, 100 backups a page",
        measured=", ".join(f"{side} {spent / ours:.1f} x" for side, spent in best.items()),
        target=">= 12 x for vps_mcp and generated",
        met=least >= 12,
        ours=ours,
        peers=best,
        unit="µs",
        ratio=1 / least,
    )
