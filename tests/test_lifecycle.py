"""From making a client to closing it: where it may be made, used, and forgotten."""

import asyncio
import copy
import gc
import pickle
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from helpers_noise import Noise, complain_to, listening
from helpers_transport import VERBS, RawServer, at_once, closed_port

from vpsbackups_async import (
    BackupsClient,
    ClientStats,
    ConfigurationError,
    VPSBackupsError,
    WrongEventLoopError,
)
from vpsbackups_async.testing import FakeVPS, Latency, RateLimit

# --- Made without a loop, used in one ------------------------------------------------------------

AT_IMPORT = BackupsClient("vps_x", base_url="http://127.0.0.1:9")


def test_a_client_made_at_import_time_has_opened_nothing() -> None:
    assert AT_IMPORT.stats == ClientStats(limit=64, running=0, waiting=0)


def test_a_client_made_without_a_loop_works_in_the_one_that_runs_then() -> None:
    async def main(port: int) -> None:
        async with RawServer(port=port).running() as server, client:
            assert len(await client.list().collect()) == 1
            assert len(server.requests) == 1

    port = closed_port()
    client = BackupsClient("vps_x", base_url=f"http://127.0.0.1:{port}")
    asyncio.run(main(port))


def test_a_second_loop_is_refused_and_the_way_out_named() -> None:
    client = BackupsClient("vps_x", base_url="http://127.0.0.1:9", retry=at_once(1))

    async def use() -> None:
        await client.list().first()

    with pytest.raises(VPSBackupsError, match=r"127\.0\.0\.1"):
        asyncio.run(use())
    for verb in VERBS.values():
        with pytest.raises(WrongEventLoopError, match="one client per event loop"):
            asyncio.run(_run(verb(client)))
    with pytest.raises(WrongEventLoopError):
        asyncio.run(_enter(client))
    # Closing is the one thing that any loop may do: there is nothing left that it could harm.
    asyncio.run(client.close())


async def _run(call: Any) -> None:
    await call


async def _enter(client: BackupsClient) -> None:
    async with client:
        pass


def test_a_client_for_each_run_of_a_loop_is_fine() -> None:
    async def main() -> int:
        async with (
            RawServer().running() as server,
            BackupsClient("vps_x", base_url=server.url) as client,
        ):
            return len(await client.list().collect())

    assert [asyncio.run(main()), asyncio.run(main())] == [1, 1]


# --- Closing -------------------------------------------------------------------------------------


async def test_closing_twice_or_before_any_use_does_no_harm() -> None:
    client = BackupsClient("vps_x", base_url="http://127.0.0.1:9")
    await client.close()
    await client.close()


@pytest.mark.parametrize("verb", VERBS)
async def test_a_closed_client_says_so(verb: str) -> None:
    async with RawServer().running() as server:
        async with BackupsClient("vps_x", base_url=server.url) as client:
            await client.list().collect()
        with pytest.raises(ConfigurationError, match="Make a new BackupsClient"):
            await VERBS[verb](client)
        with pytest.raises(ConfigurationError, match="closed"):
            await client.__aenter__()
        assert len(server.requests) == 1


async def test_closing_closes_the_connections() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"results":[]}')
        assert await reader.read() == b""
        writer.close()
        closed.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with BackupsClient("vps_x", base_url=url) as client:
            assert await client.list().collect() == []
            assert not closed.is_set()
        await closed.wait()


async def test_closing_closes_the_connections_even_if_it_is_cancelled() -> None:
    async with FakeVPS(servers=1, backups=1) as fake:
        client = BackupsClient(fake.token, base_url=fake.url)
        backup = await client.create(1)
        waiting = asyncio.create_task(client.wait(backup))
        await asyncio.sleep(0)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(VPSBackupsError, match="closed"):
            await waiting
        with pytest.raises(ConfigurationError, match="closed"):
            await client.delete(1)
        assert client._session.abandon() is False


@pytest.mark.virtual_time
@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_under_way_when_the_client_is_closed_ends_with_an_error_of_ours(
    verb: str,
) -> None:
    async with FakeVPS(servers=[1], faults=[Latency(3600)]) as fake:
        seen = asyncio.Event()
        fake.on_request = lambda _: seen.set()
        client = BackupsClient(fake.token, base_url=fake.url, retry=at_once(5))
        call = asyncio.ensure_future(VERBS[verb](client))
        await seen.wait()
        await client.close()
        closed = asyncio.get_running_loop().time()
        with pytest.raises(VPSBackupsError):
            await call
        assert asyncio.get_running_loop().time() == closed
        assert len(fake.requests) == 1


# --- Forgetting to close -------------------------------------------------------------------------


async def test_a_client_that_is_dropped_unclosed_warns_once_in_our_name() -> None:
    async with RawServer().running() as server:
        with listening() as noise:
            complain_to(noise)
            client = BackupsClient("vps_x", base_url=server.url)
            await client.list().collect()
            del client
            gc.collect()
            await asyncio.sleep(0.01)
        noise.assert_one_warning_of_ours()


@pytest.mark.parametrize("kept", [False, True], ids=["dropped by main", "kept beyond the loop"])
def test_a_client_unclosed_at_the_end_of_its_loop_warns_once_in_our_name(kept: bool) -> None:
    keep: list[BackupsClient] = []
    noise = Noise()

    async def main() -> None:
        complain_to(noise)
        async with RawServer().running() as server:
            client = BackupsClient("vps_x", base_url=server.url)
            if kept:
                keep.append(client)
            await client.list().collect()

    with listening() as heard:
        asyncio.run(main())
        keep.clear()
    heard.complaints = noise.complaints
    heard.assert_one_warning_of_ours()


def test_a_client_that_is_collected_in_another_thread_warns_once_in_our_name() -> None:
    keep: list[BackupsClient] = []
    noise = Noise()
    used, dropped = threading.Event(), threading.Event()

    async def main() -> None:
        complain_to(noise)
        asyncio.get_running_loop().set_debug(True)  # it minds calls from other threads
        async with RawServer().running() as server:
            keep.append(BackupsClient("vps_x", base_url=server.url))
            await keep[0].list().collect()
            used.set()
            await asyncio.to_thread(dropped.wait)
            await asyncio.sleep(0.01)

    with listening() as heard:
        thread = threading.Thread(target=asyncio.run, args=[main()])
        thread.start()
        used.wait()
        keep.clear()
        dropped.set()
        thread.join()
    heard.complaints = noise.complaints
    heard.assert_one_warning_of_ours()


async def test_a_client_that_opened_nothing_of_its_own_is_dropped_without_a_word() -> None:
    async with RawServer().running() as server, aiohttp.ClientSession() as session:
        with listening() as noise:
            BackupsClient("vps_x")
            client = BackupsClient("vps_x", base_url=server.url, session=session)
            await client.list().collect()
            del client
            closed = BackupsClient("vps_x", base_url=server.url)
            await closed.list().collect()
            await closed.close()
            del closed
            with pytest.raises(ConfigurationError):
                BackupsClient("")
        assert [str(seen.message) for seen in noise.warnings] == []
        assert not session.closed


# --- A clean end over TLS ------------------------------------------------------------------------

PROGRAM = """
import asyncio, ssl, sys
from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # the machine may be busy
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(sys.argv[1])
    trusted = ssl.create_default_context(cafile=sys.argv[2])
    async with FakeVPS(servers=3, backups=5, ssl_context=served) as fake:
        async with BackupsClient(fake.token, base_url=fake.url, ssl_context=trusted) as client:
            lists = await asyncio.gather(*(client.list().collect() for _ in range(10)))
            backup = await client.create(1)
            await client.restore(lists[0][0].server.id, lists[0][0].id)
            await client.delete(backup.id)
    print(len(lists), fake.url.partition(":")[0])

asyncio.run(main())
"""


def test_a_program_over_tls_ends_without_a_word_on_stderr(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM]
    done = subprocess.run(
        [*command, tmp_path / "server.pem", tmp_path / "ca.pem"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "10 https\n", "")


# --- A value that stays where it is --------------------------------------------------------------


@pytest.mark.parametrize("carry", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    "part",
    [lambda client: client, lambda client: client._session._token],
    ids=["client", "token"],
)
def test_a_client_is_neither_pickled_nor_copied(carry: Any, part: Any) -> None:
    with pytest.raises(TypeError, match="token"):
        carry(part(BackupsClient("vps_x")))


def test_bad_numbers_are_refused_at_once() -> None:
    for bad in (0, -1, True, 1.5, "1"):
        with pytest.raises(ValueError, match="max_response_bytes"):
            BackupsClient("vps_x", max_response_bytes=bad)  # type: ignore[arg-type]


async def test_the_stats_count_what_was_done() -> None:
    async with (
        FakeVPS(servers=1, backups=2, faults=[RateLimit(0, times=2)]) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=at_once(3)) as client,
    ):
        await client.list().collect()
        stats = client.stats
        await client.delete(fake.backups[0]["id"])
        assert client.stats == ClientStats(4, 2, 2, stats.bytes_received, stats.limit, 0, 0)
    assert stats.requests == 3
    assert stats.bytes_received > 500
    assert "rate_limited=2" in repr(stats)


def test_a_context_of_ones_own_is_taken() -> None:
    context = ssl.create_default_context()
    assert "admin.vps.org" in repr(BackupsClient("vps_x", ssl_context=context))
