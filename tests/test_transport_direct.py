"""Requests that need no session of aiohttp's, and tools that take part in those of all sessions."""

import asyncio
import contextlib
import re
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from helpers_transport import METHODS, VERBS, RawServer, at_once, good

from vpsbackups_async import (
    BackupsClient,
    ConfigurationError,
    Timeouts,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async.testing import FakeVPS


@pytest.mark.parametrize("verb", VERBS)
async def test_a_tool_that_replaces_the_method_of_sessions_sees_requests_from_then_on(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = aiohttp.ClientSession._request
    seen: list[str] = []

    async def replaced(self: Any, method: str, url: Any, **options: Any) -> Any:
        seen.append(method)
        return await original(self, method, url, **options)

    async with (
        RawServer().running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        await client.list().first()
        with monkeypatch.context() as patch:
            patch.setattr(aiohttp.ClientSession, "_request", replaced)
            await VERBS[verb](client)
        await client.list().first()
    assert seen == [METHODS[verb]]


TOOL = """
import asyncio, functools, sys, warnings

import aiohttp

warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp advises against subclasses


def replace_the_method():
    original = aiohttp.ClientSession._request

    @functools.wraps(original)
    async def replaced(self, method, url, **options):
        print(method, url.path)
        return await original(self, method, url, **options)

    aiohttp.ClientSession._request = replaced


class Wrapper:
    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __getattr__(self, name):
        return getattr(self.wrapped, name)

    def __get__(self, session, kind):
        return functools.partial(self, session)

    def __call__(self, session, method, url, **options):
        print(method, url.path)
        return self.wrapped(session, method, url, **options)


def wrap_the_method():
    aiohttp.ClientSession._request = Wrapper(aiohttp.ClientSession._request)


def replace_the_class():
    class Traced(aiohttp.ClientSession):
        async def _request(self, method, url, **options):
            print(method, url.path)
            return await super()._request(method, url, **options)

    aiohttp.ClientSession = Traced


def replace_the_class_later():
    import vpsbackups_async.client

    replace_the_class()


def hook_in():
    async def started(session, context, params):
        print(params.method, params.url.path)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(started)
    original = aiohttp.ClientSession.__init__

    def init(self, *args, **options):
        original(self, *args, trace_configs=[trace], **options)

    aiohttp.ClientSession.__init__ = init


def hook_in_later():
    import vpsbackups_async.client

    hook_in()


def bring_a_middleware_later():
    import vpsbackups_async.client

    original = aiohttp.ClientSession.__init__

    async def seeing(request, handler):
        print(request.method, request.url.path)
        return await handler(request)

    def init(self, *args, **options):
        original(self, *args, middlewares=[seeing], **options)

    aiohttp.ClientSession.__init__ = init


globals()[sys.argv[1]]()
from vpsbackups_async import BackupsClient


async def main():
    async with BackupsClient(sys.argv[2], base_url=sys.argv[3]) as client:
        await client.list().first()


asyncio.run(main())
"""


@pytest.mark.parametrize(
    "tool",
    [
        "replace_the_method",
        "wrap_the_method",
        "replace_the_class",
        "replace_the_class_later",
        "hook_in",
        "hook_in_later",
        "bring_a_middleware_later",
    ],
)
def test_a_tool_that_was_there_first_sees_every_request(tool: str) -> None:
    with FakeVPS().in_thread() as fake:
        command = [sys.executable, "-c", TOOL, tool, fake.token, fake.url]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("GET /api/v1/backups/\n", "")


async def test_a_connector_that_its_owner_closed_meanwhile_is_a_matter_of_configuration() -> None:
    connector = aiohttp.TCPConnector()
    async with (
        RawServer().running() as server,
        BackupsClient("vps_x", base_url=server.url, connector=connector) as client,
    ):
        await client.list().first()
        await connector.close()
        with pytest.raises(ConfigurationError, match="Session is closed"):
            await client.list().first()
        assert server.connections == 1


async def test_a_connection_that_is_not_made_in_time_is_said_to_be_that() -> None:
    class Slow(aiohttp.TCPConnector):
        async def connect(self, *_: Any, **__: Any) -> Any:
            async with asyncio.timeout(0):
                await asyncio.sleep(3600)

    connector = Slow()
    timeouts = Timeouts(connect=1)
    async with BackupsClient(
        "vps_x", connector=connector, timeouts=timeouts, retry=at_once(1)
    ) as client:
        with pytest.raises(TransportError, match="no connection in time"):
            await client.list().first()
    await connector.close()


async def test_a_request_whose_answer_breaks_leaves_no_connection_behind() -> None:
    connector = aiohttp.TCPConnector(limit=1)
    async with (
        RawServer(lambda request: b"junk\r\n\r\n").running() as server,
        BackupsClient(
            "vps_x", base_url=server.url, connector=connector, retry=at_once(3)
        ) as client,
    ):
        for _ in range(3):
            with pytest.raises(TransportError, match="not HTTP"):
                await client.list().first()
        assert (len(server.requests), server.connections) == (9, 9)
    await connector.close()


@pytest.mark.parametrize("over", ["a connector", "a session"])
async def test_over_a_given_pool_a_create_goes_out_on_a_connection_that_was_never_used(
    over: str,
) -> None:
    arrived: list[tuple[object, str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                verb = head.split()[0].decode()
                if verb == "POST":
                    length = int(re.findall(rb"Content-Length: (\d+)", head)[0])
                    head += await reader.readexactly(length)
                arrived.append((writer, verb))
                await asyncio.sleep(0)
                writer.write(good(head))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    connector = aiohttp.TCPConnector()
    async with aiohttp.ClientSession(connector=connector) as session:
        given: dict[str, Any] = (
            {"connector": connector} if over == "a connector" else {"session": session}
        )
        async with BackupsClient("vps_x", base_url=url, **given) as client:
            await asyncio.gather(*(client.list().first() for _ in range(3)))
            used = {writer for writer, _ in arrived}
            assert len(used) == 3
            await client.create(1)
            await client.list().first()
    (post,) = [writer for writer, verb in arrived if verb == "POST"]
    assert post not in used
    assert arrived[-1] == (post, "GET")
    server.close()
    await server.wait_closed()


async def test_bytes_that_no_request_asked_for_are_not_taken_for_an_answer() -> None:
    blank: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        blank.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                writer.write(good(await reader.readuntil(b"\r\n\r\n")))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with BackupsClient("vps_x", base_url=url) as client:
        for connections in (1, 2, 3):
            await client.list().first()
            assert len(blank) == connections
            blank[-1].write(b"\r\n")
            await asyncio.sleep(0.01)  # what the server does must come to the client's ears
    server.close()
    await server.wait_closed()


async def test_a_create_whose_body_is_not_taken_leaves_no_task_behind() -> None:
    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(keep_silent, "127.0.0.1", 0, limit=1)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with BackupsClient(
        "vps_x", base_url=url, timeouts=Timeouts(attempt=0.2, deadline=0.5), retry=at_once(1)
    ) as client:
        tasks = asyncio.all_tasks()
        with pytest.raises(VPSBackupsError):
            await client.create(1, description="x" * 20_000_000)
        left = [task for task in asyncio.all_tasks() - tasks if "write_bytes" in repr(task)]
        assert left == []
    over.set()
    server.close()
    await server.wait_closed()


async def test_an_answer_that_the_end_of_the_connection_ends_is_read_whole() -> None:
    def answer(request: bytes) -> bytes:
        head, _, body = good(request).partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    async with (
        RawServer(answer, then_close=True).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(1)) as client,
    ):
        assert len(await client.list().collect()) == 1
