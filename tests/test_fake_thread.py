"""The fake server in a thread of its own, for code and tests that are not async."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from yarl import URL

from vpsbackups_async import Backup, BackupsClient, ConstantBackoff, RetryPolicy, TransportError
from vpsbackups_async.testing import FakeVPS, RateLimit, SeenRequest

ONCE = RetryPolicy(attempts=1, backoff=ConstantBackoff(0))


async def listed(fake: FakeVPS) -> list[Backup]:
    async with BackupsClient(fake.token, base_url=fake.url, retry=ONCE) as client:
        return await client.list().collect()


def test_a_plain_block_serves_clients_on_any_event_loop() -> None:
    with FakeVPS(servers=2, backups=3).in_thread() as fake:
        assert [len(asyncio.run(listed(fake))) for _ in range(2)] == [6, 6]
        assert fake.count("GET", status=200) == 2


def test_its_thread_and_its_port_are_gone_after_the_block() -> None:
    before = threading.enumerate()
    with FakeVPS().in_thread() as fake:
        assert len(threading.enumerate()) == len(before) + 1
    assert threading.enumerate() == before
    with pytest.raises(TransportError):
        asyncio.run(listed(fake))


def test_its_state_is_changed_from_the_thread_of_the_test() -> None:
    with FakeVPS().in_thread() as fake:
        first = fake.add_backup(1, status="in_progress")["id"]
        second = fake.add_backup(2)["id"]
        fake.finish(first)
        fake.remove_backup(second)
        assert [backup.id for backup in asyncio.run(listed(fake)) if backup.is_completed] == [first]
        fake.revoke()
        fake.inject(RateLimit(times=1))
        before = fake.now
        fake.advance(3600)
        assert (fake.now - before).total_seconds() >= 3600


def test_its_state_may_change_in_the_middle_of_requests() -> None:
    """Without a lock, a list that changes during a walk over it is an error."""
    with FakeVPS(servers=1, order="random", max_page_size=1000).in_thread() as fake:
        for _ in range(1_000):
            fake.add_backup(1)

        def change() -> None:
            for number in range(1, 500):
                fake.remove_backup(number)
                fake.add_backup(1)
                assert len(fake.backups) == 1_000

        async def read() -> None:
            async with BackupsClient(fake.token, base_url=fake.url, retry=ONCE) as client:
                while not changing.done():
                    await client.list(server_id=1, backup_type="manual", page_size=1000).first()

        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            asyncio.run(read())
            changing.result()
        assert fake.count(status=500) == 0


def test_connections_are_cut_from_the_thread_of_the_test() -> None:
    with FakeVPS().in_thread() as fake:
        port = URL(fake.url).port
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            asyncio.run(listed(fake))  # until then the server has accepted the connection
            fake.drop_connections()
            assert connection.recv(1) == b""


def test_a_port_that_is_in_use_is_an_error_of_the_block() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        fake = FakeVPS(port=other.getsockname()[1])
        with pytest.raises(OSError, match="in use"), fake.in_thread():
            pytest.fail("it has started")


def unlucky(seen: SeenRequest) -> None:
    raise LookupError("no luck")


def test_an_error_of_a_function_of_the_test_is_raised_at_the_end_of_the_block() -> None:
    def ask() -> None:
        with FakeVPS().in_thread() as fake:
            fake.on_request = unlucky
            with pytest.raises(Exception, match="500"):
                asyncio.run(listed(fake))

    with pytest.raises(LookupError, match="no luck"):
        ask()


def test_an_error_of_the_block_goes_before_one_of_a_function_of_the_test() -> None:
    with pytest.raises(ZeroDivisionError), FakeVPS().in_thread() as fake:  # noqa: PT012
        fake.on_request = unlucky
        with pytest.raises(Exception, match="500"):
            asyncio.run(listed(fake))
        raise ZeroDivisionError


def test_it_keeps_its_port_and_its_backups_for_the_next_block() -> None:
    fake = FakeVPS()
    with fake.in_thread():
        url = fake.url
        fake.add_backup(1)
    with fake.in_thread():
        assert fake.url == url
        assert len(asyncio.run(listed(fake))) == 1
