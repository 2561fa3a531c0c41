"""Replies that are too large, no HTTP, or a redirect; base URLs that are taken or refused."""

import base64
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from helpers_transport import (
    BACKUP,
    METHODS,
    PAGE,
    VERBS,
    RawServer,
    at_once,
    http,
    wired_server,
)

from vpsbackups_async import (
    BackupsClient,
    ConfigurationError,
    CreateOutcomeUnknownError,
    InvalidResponseError,
    ResponseTooLargeError,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
)
from vpsbackups_async.testing import (
    FakeVPS,
    Fault,
    Garbage,
    GzipBomb,
    Oversized,
    Redirect,
    Reply,
)

MIB = 2**20
NONE = b'{"count":0,"next":null,"previous":null,"results":[]}'
NONE_BY_ENCODING = {
    "br": base64.b64decode("GzMAeBwHdiz4D4VC6uSDUqRrL3VY+gpmCzbggHV5XLIBhw04SCWhYPDZfsTgWz1YxDY="),
    "zstd": b"\x28\xb5\x2f\xfd\x20\x34\xa1\x01\x00" + NONE,
}
BOMBS = {  # of 64 MiB
    "br": base64.b64decode(
        "y///P/glQOKxQCD3/o///3/wSwDEYRGA7v0f////4JcAiMMCAN37P/7//8EvARCHBQC693/8//+DXwIgDgsAdO//+P//B78E"
        "QBwWAOje//H//w9+CYA4LADQvf/j//8f/BIAcVgAoHv/Nw=="
    ),
    # Blocks of one byte each, repeated 128 KiB times (RFC 8878, 3.1.1.2); the last one is marked.
    "zstd": b"\x28\xb5\x2f\xfd\x00\x58" + 511 * b"\x02\x00\x10 " + b"\x03\x00\x10 ",
}


@pytest.fixture(scope="module")
def kneaded() -> GzipBomb:
    """A bomb that is made already, so that its making does not count as the client's memory."""
    fault = GzipBomb(200 * MIB)
    fault.strike(None, None)  # type: ignore[arg-type]  # the moment does not matter to it
    return fault


# --- Size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bomb", "chunked", "with its length"])
async def test_a_body_beyond_the_cap_is_not_read_to_its_end(kneaded: GzipBomb, kind: str) -> None:
    cap = 16 * MIB
    faults: dict[str, Fault] = {
        "bomb": kneaded,
        "chunked": Oversized(64 * MIB),
        "with its length": Oversized(64 * MIB, chunked=False),
    }
    async with (
        FakeVPS(servers=1, backups=1) as fake,
        BackupsClient(
            fake.token, base_url=fake.url, max_response_bytes=cap, retry=at_once(3)
        ) as client,
    ):
        await client.list().collect()
        fake.inject(faults[kind])
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLargeError, match=str(cap)):
                await client.list().collect()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert fake.count("GET") == 2  # asking again would bring the same
        assert client.stats.bytes_received < cap + 4 * MIB
        fake.clear_faults()
        await client.list().collect()
    assert peak < cap + 8 * MIB  # with what the fake server, in the same process, has not sent yet


@pytest.mark.parametrize("encoding", ["br", "zstd"])
async def test_an_answer_in_an_encoding_of_the_extra_speedups_is_read(encoding: str) -> None:
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        asked.append(request)
        return http(200, NONE_BY_ENCODING[encoding], Content_Encoding=encoding)

    async with (
        RawServer(answer).running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        assert await client.list().collect() == []
    assert encoding.encode() in asked[0].partition(b"Accept-Encoding: ")[2].splitlines()[0]


@pytest.mark.parametrize("encoding", ["br", "zstd"])
async def test_a_bomb_in_an_encoding_of_the_extra_speedups_is_not_read_to_its_end(
    encoding: str,
) -> None:
    reply = http(200, BOMBS[encoding], Content_Encoding=encoding)
    async with (
        RawServer(lambda _: reply).running() as server,
        BackupsClient("vps_x", base_url=server.url, max_response_bytes=MIB) as client,
    ):
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLargeError, match=str(MIB)):
                await client.list().collect()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 * MIB


async def test_a_body_within_the_cap_is_held_once() -> None:
    space = b" " * 2**16
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(PAGE) + 255 * len(space))
    pieces: list[bytes | None] = [head, *[space] * 255, PAGE]
    async with (
        wired_server(lambda _: pieces) as wires,
        BackupsClient("vps_x", base_url=wires.url) as client,
    ):
        tracemalloc.start()
        try:
            assert len(await client.list().collect()) == 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 16 * MIB + 4 * MIB


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
async def test_the_cap_is_exact(spare: int, fits: bool) -> None:
    async with (
        RawServer().running() as server,
        BackupsClient("vps_x", base_url=server.url, max_response_bytes=len(PAGE) + spare) as client,
    ):
        if fits:
            assert len(await client.list().collect()) == 1
            assert client.stats.bytes_received == len(PAGE)
        else:
            with pytest.raises(ResponseTooLargeError):
                await client.list().collect()


async def test_an_answer_to_a_create_that_is_too_large_leaves_its_outcome_unknown() -> None:
    async with (
        RawServer(lambda _: http(201, BACKUP)).running() as server,
        BackupsClient(
            "vps_x", base_url=server.url, max_response_bytes=10, retry=at_once(3)
        ) as client,
    ):
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1)
    assert isinstance(caught.value.__cause__, ResponseTooLargeError)
    assert sum(request.startswith(b"POST") for request in server.requests) == 1


async def test_a_delete_or_restore_is_done_however_large_its_answer() -> None:
    async with (
        RawServer(lambda _: http(200, b"[" + b" " * 100_000 + b"]")).running() as server,
        BackupsClient("vps_x", base_url=server.url, max_response_bytes=10) as client,
    ):
        await client.delete(1)
        restored = await client.restore(1, 1, check=False)
    assert (restored.status, restored.data) == (200, None)
    assert len(server.requests) == 2


@pytest.mark.parametrize("cap", [16 * MIB, 1000])
async def test_of_an_error_page_only_the_beginning_is_read(cap: int) -> None:
    page = b"<title>Oops</title>" + b"x" * 8 * MIB
    async with FakeVPS(servers=1, faults=[Reply(500, page)]) as fake:
        client = BackupsClient(
            fake.token, base_url=fake.url, retry=at_once(1), max_response_bytes=cap
        )
        async with client:
            with pytest.raises(ServerError) as caught:
                await client.list().collect()
            assert client.stats.bytes_received < MIB
    assert (caught.value.status, caught.value.detail) == (500, "Oops")


# --- Words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("cut", [1, 90])
async def test_a_body_that_cannot_be_decoded_is_named_so(encoding: str, cut: int) -> None:
    reply = http(200, b"nope" + b"x" * 96, Content_Encoding=encoding)
    async with (
        wired_server(lambda _: [reply[:-cut], reply[-cut:]]) as wires,
        BackupsClient("vps_x", base_url=wires.url, retry=at_once(1)) as client,
    ):
        with pytest.raises(TransportError, match="the body cannot be decoded") as caught:
            await client.list().collect()
    assert encoding in str(caught.value)


async def test_a_body_that_is_cut_short_is_named_so() -> None:
    async with (
        wired_server(lambda _: [http()[:-9], None]) as wires,
        BackupsClient("vps_x", base_url=wires.url, retry=at_once(1)) as client,
    ):
        with pytest.raises(TransportError, match="ended in the middle of the answer"):
            await client.list().collect()


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("503 Service Unavailable", "503 Service Unavailable (GET"),
        ("503", "503 (GET"),
        ("5030 things", "503 5030 things (GET"),
        ("Error 503", "503 Error 503 (GET"),
        ("", "503 without a reason (GET"),
    ],
)
async def test_a_status_is_said_once(title: str, shown: str) -> None:
    page = f"<html><title>{title}</title></html>".encode()
    async with (
        RawServer(lambda _: http(503, page)).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(1)) as client,
    ):
        with pytest.raises(ServerError) as caught:
            await client.list().collect()
    assert str(caught.value).startswith(shown)
    assert (caught.value.status, caught.value.detail) == (503, title)


# --- No HTTP, and redirects ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01 this is no HTTP \xff\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
async def test_what_is_no_http_is_a_transport_error_and_tried_again(data: bytes) -> None:
    async with FakeVPS(servers=1, faults=[Garbage(data)]) as fake:
        async with BackupsClient(fake.token, base_url=fake.url, retry=at_once(2)) as client:
            with pytest.raises(TransportError) as caught:
                await client.list().collect()
        assert fake.count("GET") == 2
    assert type(caught.value) is TransportError
    assert caught.value.sent is True
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_never_followed(verb: str, status: int) -> None:
    async with FakeVPS(servers=1) as fake, FakeVPS(servers=1) as elsewhere:
        target = f"{elsewhere.url}/api/v1/backups/"
        fake.inject(Redirect(target, status))
        async with BackupsClient(fake.token, base_url=fake.url, retry=at_once(3)) as client:
            with pytest.raises(UnexpectedRedirectError) as caught:
                await VERBS[verb](client)
        assert (len(fake.requests), elsewhere.requests) == (1, [])
        error = caught.value
    assert (error.location, error.method, error.sent) == (target, METHODS[verb], True)
    assert target in str(error)


async def test_a_redirect_to_nowhere_has_no_location() -> None:
    async with (
        RawServer(lambda _: http(302, b"")).running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        with pytest.raises(UnexpectedRedirectError) as caught:
            await client.list().collect()
    assert caught.value.location is None


async def test_a_200_that_is_no_json_is_not_asked_for_again() -> None:
    async with (
        RawServer(lambda _: http(200, b"<html>")).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(3)) as client,
    ):
        with pytest.raises(InvalidResponseError):
            await client.list().collect()
    assert len(server.requests) == 1


async def test_every_path_has_its_exact_slash_and_query() -> None:
    async with RawServer().running() as server:
        async with BackupsClient("vps_x", base_url=server.url) as client:
            await client.list(server_id=3, backup_type="manual", page_size=50).collect()
            for verb in VERBS.values():
                await verb(client)
        lines = [request.split(b"\r\n")[0].decode() for request in server.requests]
    assert lines == [
        "GET /api/v1/backups/?server_id=3&backup_type=manual&page_size=50 HTTP/1.1",
        "GET /api/v1/backups/ HTTP/1.1",
        "DELETE /api/v1/backups/1/ HTTP/1.1",
        "POST /api/v1/backups/ HTTP/1.1",
        "POST /api/v1/servers/1/restore/ HTTP/1.1",
    ]


@pytest.mark.parametrize("session", ["own", "given"])
async def test_a_request_carries_its_headers_and_no_others(session: str) -> None:
    async with RawServer().running() as server, AsyncExitStack() as stack:
        given = None
        if session == "given":
            given = await stack.enter_async_context(aiohttp.ClientSession())
        client = BackupsClient(" vps_x\n", base_url=server.url, session=given)
        async with client:
            await client.list().collect()
            await client.create(1, description="é")
            await client.delete(1)
        heads = [request.partition(b"\r\n\r\n")[0].decode() for request in server.requests]
    every = ["Accept", "Accept-Encoding", "Authorization", "Host", "User-Agent"]
    body = (
        ["Content-Length", "Content-Type"]
        if given
        else ["Connection", "Content-Length", "Content-Type"]
    )
    for head, more in zip(heads, [[], body, ["Content-Length"]], strict=True):
        lines = [line.partition(": ")[::2] for line in head.split("\r\n")[1:]]
        sent = dict(lines)
        assert sorted(name for name, _ in lines) == sorted([*every, *more])
        assert lines[0] == ("Host", f"127.0.0.1:{server.port}")
        assert sent["Authorization"] == "Bearer vps_x"
        assert sent["Accept"] == "application/json"
        assert "gzip" in sent["Accept-Encoding"]
        if given is None:
            assert sent["User-Agent"].startswith("vpsbackups_async/")
    assert "Content-Type: application/json" in heads[1]
    assert "Content-Length: 0" in heads[2]
    assert server.requests[1].endswith('{"server_id":1,"description":"é"}'.encode())


@pytest.mark.parametrize(
    "call",
    [
        lambda client, bad: client.delete(bad),
        lambda client, bad: client.create(bad),
        lambda client, bad: client.restore(bad, 1),
        lambda client, bad: client.restore(1, bad),
        lambda client, bad: client.get(bad),
        lambda client, bad: client.get(1, server_id=bad),
    ],
    ids=["delete", "create", "restore server", "restore backup", "get", "get of server"],
)
@pytest.mark.parametrize("bad", ["../x", "a/b", "", ".", "1", True, -1, 0, 1.0])
async def test_an_id_that_is_none_is_refused_before_any_request(call: Any, bad: object) -> None:
    async with RawServer().running() as server:
        async with BackupsClient("vps_x", base_url=server.url) as client:
            with pytest.raises(ValueError, match="must be a positive int"):
                await call(client, bad)
        assert (server.requests, server.connections) == ([], 0)


# --- The base URL --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://admin.vps.org", "https://admin.vps.org/api/v1"),
        ("https://admin.vps.org/", "https://admin.vps.org/api/v1"),
        ("https://admin.vps.org/api", "https://admin.vps.org/api/v1"),
        ("https://admin.vps.org/api/v1", "https://admin.vps.org/api/v1"),
        ("https://admin.vps.org/api/v1/", "https://admin.vps.org/api/v1"),
        ("https://H.example:8443/front/", "https://h.example:8443/front/api/v1"),
        ("https://h/front/api/v1", "https://h/front/api/v1"),
        ("https://h/a%2Fb", "https://h/a%2Fb/api/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api/v1"),
        ("http://127.8.9.1", "http://127.8.9.1/api/v1"),
        ("http://localhost:8000", "http://localhost:8000/api/v1"),
        ("http://localhost.:8000", "http://localhost.:8000/api/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/api/v1"),
    ],
)
def test_a_base_url_is_taken_with_or_without_the_path_of_the_api(given: str, used: str) -> None:
    assert repr(BackupsClient("vps_x", base_url=given)) == f"<BackupsClient of {used}>"


@pytest.mark.parametrize(
    "given",
    [
        "http://admin.vps.org",
        "http://127.evil.example",
        "http://localhost.evil.example",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://[fe80::1]",
    ],
)
def test_http_beyond_loopback_needs_a_word(given: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_insecure=True"):
        BackupsClient("vps_x", base_url=given)
    assert given in repr(BackupsClient("vps_x", base_url=given, allow_insecure=True))


@pytest.mark.parametrize(
    "given",
    [
        "ftp://h",
        "admin.vps.org",
        "//admin.vps.org",
        "https://",
        "https:///api",
        "https://h:99999",
        "https://h:port",
        "https://[::1",
        "nonsense",
        42,
        b"https://h",
    ],
)
def test_what_is_no_http_url_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        BackupsClient("vps_x", base_url=given)


@pytest.mark.parametrize(
    "given",
    [
        "https://user:hidden@h",
        "https://hidden@h",
        "https://:hidden@h",
        "http://user:hidden@",
        "user:hidden@h",
        "https://h?token=hidden",
        "https://h/?hidden",
        "https://h#hidden",
    ],
)
def test_what_a_base_url_must_not_hold_is_refused_without_showing_it(given: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        BackupsClient("vps_x", base_url=given)
    assert "hidden" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    "host", ["xn--", "xn--a", "xn--a.example", "xn--999999999.example", "a.xn--zzzzzzzz99.example"]
)
def test_a_base_url_whose_host_cannot_be_decoded_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        BackupsClient("vps_x", base_url=f"https://{host}/")


@pytest.mark.parametrize("off", [False, True, 0, "off", "/etc/ssl/ca.pem"])
def test_the_check_of_certificates_has_no_off_switch(off: Any) -> None:
    with pytest.raises(ConfigurationError, match="ssl_context"):
        BackupsClient("vps_x", ssl_context=off)


def test_the_environment_gives_url_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPS_API_TOKEN", "vps_env")
    monkeypatch.setenv("VPS_API_URL", "https://env.example/api/v1")
    assert repr(BackupsClient()) == "<BackupsClient of https://env.example/api/v1>"
    assert "given.example" in repr(BackupsClient(base_url="https://given.example"))
    monkeypatch.setenv("VPS_API_URL", "")
    assert repr(BackupsClient()) == "<BackupsClient of https://admin.vps.org/api/v1>"
    monkeypatch.setenv("VPS_API_TOKEN", "")
    with pytest.raises(ConfigurationError, match="VPS_API_TOKEN"):
        BackupsClient()
