"""Pings to a monitor: one that does not answer holds up nothing."""

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from vpsbackups_async import _ping
from vpsbackups_async._ping import check_ping, ping, ping_beside


@pytest.fixture
def trickling() -> Iterator[str]:
    """The URL of a monitor that answers byte by byte, and never to the end."""
    closing = threading.Event()

    def trickle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not closing.wait(0.02):
                connection.sendall(b"x")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=trickle, args=(server.accept()[0],)).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/check"
        closing.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_a_monitor_that_answers_byte_by_byte_is_given_up_in_time(
    trickling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ping, "_SECONDS", 0.3)
    parts = check_ping(trickling)
    async with asyncio.timeout(10):
        assert isinstance(await ping_beside(parts, "", ""), TimeoutError)
        assert isinstance(await asyncio.to_thread(ping, parts, "", ""), TimeoutError)


async def test_pings_that_hang_take_no_thread_of_the_executor(trickling: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        pinging = asyncio.create_task(ping_beside(check_ping(trickling), "", ""))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(pinging.done) is False
        pinging.cancel()


_PINGING = """
import asyncio, sys
from vpsbackups_async._ping import check_ping, ping_beside

async def main():
    pinging = asyncio.create_task(ping_beside(check_ping(sys.argv[1]), "", ""))
    await asyncio.sleep(0.2)
    assert not pinging.done()

asyncio.run(main())
"""


async def test_a_ping_that_hangs_does_not_hold_up_the_end_of_the_process(trickling: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PINGING, trickling)
    try:
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
