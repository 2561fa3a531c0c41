"""Virtual time: waits are skipped, and nothing that really takes time is."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import anyio.to_thread
import pytest

from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS, VirtualTime

PAUSE = 0.05
"""Seconds that something outside of the loop takes."""


@pytest.fixture(autouse=True)
def _on_asyncios_own_loop(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--uvloop"):
        pytest.skip("uvloop's clock is its own")


@contextmanager
def slow_echo() -> Iterator[int]:
    """The port of a server in another thread, which answers a connection after a pause."""

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            while heard := connection.recv(100):
                time.sleep(PAUSE)
                connection.sendall(heard)

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


async def test_waits_take_no_time_and_end_at_their_moments_in_their_order() -> None:
    ends: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        ends.append((name, virtual_time.elapsed))

    with VirtualTime() as virtual_time:
        await asyncio.gather(wait("c", 86_400 * 30), wait("a", 0.1), wait("b", 600))
    assert ends == [("a", 0.1), ("b", 600), ("c", 86_400 * 30)]


async def test_the_same_run_gives_the_same_numbers() -> None:
    async def run() -> list[float]:
        with VirtualTime() as virtual_time:
            moments = []
            for _ in range(1_000):
                await asyncio.sleep(0.03)
                moments.append(virtual_time.elapsed)
            return moments

    assert await run() == [round(0.03 * count, 6) for count in range(1, 1_001)]
    assert await asyncio.to_thread(asyncio.run, run()) == await asyncio.to_thread(
        asyncio.run, run()
    )


async def test_code_takes_no_virtual_time() -> None:
    with VirtualTime() as virtual_time:
        time.sleep(0.01)  # noqa: ASYNC251
        await asyncio.sleep(0)
        assert virtual_time.elapsed == 0


@pytest.mark.parametrize("seconds", [0.03, 0.1, 0.3, 0.7])
async def test_many_short_waits_add_up_to_a_long_one(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    with VirtualTime():
        for _ in range(1_000):
            await asyncio.sleep(seconds)
        assert loop.time() >= 1_000 * seconds
        assert loop.time() == pytest.approx(1_000 * seconds, abs=1e-9)


async def test_who_waits_until_a_moment_gets_there_whatever_the_rounding() -> None:
    loop = asyncio.get_running_loop()
    with VirtualTime():
        for part in range(1, 200):
            due = loop.time() + 1 / part
            rounds = 0
            while loop.time() < due:
                await asyncio.sleep(due - loop.time())
                rounds += 1
            assert rounds <= 2


async def test_no_wait_ends_while_bytes_are_under_way_between_client_and_server() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while heard := await reader.read(65_536):
            writer.write(heard)
            await writer.drain()
        writer.close()

    with VirtualTime() as virtual_time:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(0.001):
                for _ in range(200):
                    writer.write(b"x" * 200_000)
                    await reader.readexactly(200_000)
            writer.close()
            await writer.wait_closed()
        assert virtual_time.elapsed == 0


async def test_many_clients_of_one_fake_are_answered_before_any_timeout_ends() -> None:
    with VirtualTime() as virtual_time:
        async with (
            FakeVPS(servers=3, backups=5) as fake,
            BackupsClient(fake.token, base_url=fake.url) as client,
            asyncio.timeout(0.001),
        ):
            counts = await asyncio.gather(*(client.list().count() for _ in range(300)))
        assert set(counts) == {15}
        assert virtual_time.elapsed == 0


async def test_a_thread_takes_the_time_it_takes() -> None:
    with VirtualTime() as virtual_time:
        async with asyncio.timeout(60):
            await asyncio.to_thread(time.sleep, PAUSE)
        assert 0 < virtual_time.elapsed < 60
        await asyncio.sleep(600)
        assert virtual_time.elapsed >= 600


async def test_a_thread_that_waits_for_the_loop_does_not_stop_the_clock() -> None:
    with VirtualTime():
        begun = threading.Event()
        asyncio.get_running_loop().call_later(PAUSE, begun.set)
        assert await asyncio.to_thread(begun.wait, 60)


async def test_a_thread_of_anyio_takes_the_time_it_takes() -> None:
    with VirtualTime() as virtual_time:
        with anyio.fail_after(60):
            await anyio.to_thread.run_sync(time.sleep, PAUSE)
        assert 0 < virtual_time.elapsed < 60


@pytest.mark.parametrize("kind", ["exec", "shell"])
@pytest.mark.parametrize("pipes", [{}, {"stdout": -1, "stdin": -1}])
async def test_a_subprocess_takes_the_time_it_takes(kind: str, pipes: dict[str, int]) -> None:
    start = getattr(asyncio, f"create_subprocess_{kind}")
    command = [sys.executable, "-c", "pass"]
    with VirtualTime() as virtual_time:
        process = await start(*([" ".join(command)] if kind == "shell" else command), **pipes)
        async with asyncio.timeout(60):
            await process.communicate()
        assert process.returncode == 0
        assert virtual_time.elapsed < 60
        at = virtual_time.elapsed
        await asyncio.sleep(600)
        assert virtual_time.elapsed >= at + 600


async def test_a_server_elsewhere_takes_the_time_it_takes() -> None:
    with VirtualTime() as virtual_time, slow_echo() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(60):
            writer.write(b"Is anybody there?")
            assert await reader.readexactly(17) == b"Is anybody there?"
        assert 0 < virtual_time.elapsed < 60
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(600)  # ten minutes of real time are beyond the limit of any test


async def test_a_socket_without_a_transport_counts_as_well() -> None:
    loop = asyncio.get_running_loop()
    with VirtualTime() as virtual_time, slow_echo() as port, socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        async with asyncio.timeout(60):
            await loop.sock_sendall(connection, b"Hello")
            assert await loop.sock_recv(connection, 100) == b"Hello"
        assert 0 < virtual_time.elapsed < 60


async def test_a_reader_that_pauses_does_not_turn_virtual_time_off() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 10_000_000)
        await writer.drain()
        writer.close()

    with VirtualTime():
        async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(600)  # ten minutes of real time are beyond the limit of any test
            assert len(await reader.read()) == 10_000_000
            await asyncio.sleep(600)
            writer.close()
            await writer.wait_closed()


async def test_afterwards_the_clock_goes_on_from_where_it_is() -> None:
    loop = asyncio.get_running_loop()
    with VirtualTime():
        await asyncio.sleep(600)
        later = loop.call_later(3_600, lambda: None)
    assert 600 <= loop.time() < 700
    began = loop.time()
    await asyncio.sleep(0.01)
    assert loop.time() > began
    assert not later.cancelled()
    with VirtualTime() as virtual_time:
        assert began < loop.time() < 700
        await asyncio.sleep(3_600)
        assert virtual_time.elapsed == 3_600
    later.cancel()


async def test_it_starts_at_zero_only_where_no_timer_would_notice() -> None:
    loop = asyncio.get_running_loop()
    timer = loop.call_later(60, lambda: None)
    before = loop.time()
    with VirtualTime() as virtual_time:
        assert loop.time() >= before
        assert virtual_time.elapsed == 0
    timer.cancel()


async def test_a_loop_is_on_virtual_time_once() -> None:
    with VirtualTime(), pytest.raises(RuntimeError, match="on virtual time already"):
        VirtualTime().__enter__()


def test_it_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        VirtualTime().__enter__()


def test_it_needs_asyncios_own_loop() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop comes with the dev group")

    async def enter() -> None:
        with VirtualTime():
            pass

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match=r"needs an asyncio.SelectorEventLoop, not uvloop.Loop"),
    ):
        runner.run(enter())


def test_elapsed_says_that_it_is_not_on() -> None:
    with pytest.raises(RuntimeError, match="not on"):
        VirtualTime().elapsed  # noqa: B018
