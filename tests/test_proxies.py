"""Proxies: where they come from, what they may see, what they refuse, and their passwords."""

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
import pytest
from helpers_secrets import CANARY, PROXY_CANARY, Ear, assert_clean, holds
from helpers_spans import Spans
from helpers_transport import VERBS, RawServer, at_once, closed_port, http
from yarl import URL

from vpsbackups_async import (
    AuthenticationError,
    BackupsClient,
    ConfigurationError,
    Timeouts,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async._transport.address import find_proxy
from vpsbackups_async._transport.secrets import Secret


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("how", ["given", "env", "both cases"])
async def test_requests_go_through_a_proxy(
    environment: pytest.MonkeyPatch, how: str, own_session: bool
) -> None:
    async with RawServer().running() as proxy:
        if how != "given":
            environment.setenv("http_proxy" if how == "env" else "HTTP_PROXY", proxy.url)
        session = aiohttp.ClientSession() if own_session else None
        client = BackupsClient(
            "vps_x",
            base_url="http://backups.test",
            allow_insecure=True,
            session=session,
            proxy=proxy.url if how == "given" else "env",
        )
        async with client:
            await client.list().collect()
        if session is not None:
            await session.close()
        assert proxy.requests[0].startswith(b"GET http://backups.test/api/v1/backups/ HTTP/1.1")
        assert b"Authorization: Bearer vps_x\r\n" in proxy.requests[0]


async def test_the_environment_may_exempt_a_host_from_the_proxy(
    environment: pytest.MonkeyPatch,
) -> None:
    async with RawServer().running() as server, RawServer().running() as proxy:
        environment.setenv("HTTP_PROXY", proxy.url)
        environment.setenv("NO_PROXY", "127.0.0.1")
        async with BackupsClient("vps_x", base_url=server.url, proxy="env") as client:
            await client.list().collect()
        assert (len(server.requests), len(proxy.requests)) == (1, 0)


@pytest.mark.parametrize("set_one", [False, True])
async def test_without_being_asked_for_the_environments_proxy_is_not_used(
    environment: pytest.MonkeyPatch, set_one: bool
) -> None:
    async with RawServer().running() as server, RawServer().running() as proxy:
        if set_one:
            environment.setenv("HTTP_PROXY", proxy.url)
        how = None if set_one else "env"
        async with BackupsClient("vps_x", base_url=server.url, proxy=how) as client:
            await client.list().collect()
        assert (len(server.requests), len(proxy.requests)) == (1, 0)


async def test_a_proxys_password_goes_to_the_proxy_and_is_not_shown() -> None:
    async with RawServer().running() as proxy:
        given = f"http://user:swordfish@127.0.0.1:{proxy.port}"
        client = BackupsClient(
            "vps_x", base_url="http://backups.test", allow_insecure=True, proxy=given
        )
        async with client:
            await client.list().collect()
            assert "swordfish" not in repr(vars(client)) + repr(vars(client._session))
        credentials = base64.b64encode(b"user:swordfish")
        assert b"Proxy-Authorization: Basic " + credentials in proxy.requests[0]


async def test_a_proxy_that_is_not_there_is_a_transport_error() -> None:
    client = BackupsClient(
        "vps_x",
        base_url="https://127.0.0.1:9",
        proxy=f"http://127.0.0.1:{closed_port()}",
        retry=at_once(2),
    )
    async with client:
        with pytest.raises(TransportError) as caught:
            await client.create(1)
    assert (caught.value.sent, caught.value.attempts) == (False, 2)


# --- From the environment -------------------------------------------------------------------------


def proxy_of(base: str, given: str = "env", *, allow_insecure: bool = False) -> str | None:
    proxy = find_proxy(Secret(given), URL(base), allow_insecure=allow_insecure)
    return None if proxy is None else str(proxy.url).rstrip("/")


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"https_proxy": "http://p:3128"}, "http://p:3128"),
        ({"HTTPS_PROXY": "p:3128"}, "http://p:3128"),
        ({"HTTPS_PROXY": "user:word@p:3128"}, "http://user:word@p:3128"),
        ({"HTTPS_PROXY": "https://p"}, "https://p"),
        ({"ALL_PROXY": "p:3128"}, "http://p:3128"),
        ({"ALL_PROXY": "socks5://a", "HTTPS_PROXY": "p:3128"}, "http://p:3128"),
        ({"HTTP_PROXY": "p:3128"}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({}, None),
        ({"HTTPS_PROXY": "p:3128", "NO_PROXY": "h.example"}, None),
        ({"HTTPS_PROXY": "p:3128", "NO_PROXY": "a, .example"}, None),
        ({"HTTPS_PROXY": "p:3128", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "p:3128", "NO_PROXY": "h.example:8443"}, None),
        ({"HTTPS_PROXY": "p:3128", "NO_PROXY": "h.example:443"}, "http://p:3128"),
        ({"HTTPS_PROXY": "p:3128", "NO_PROXY": "other.example"}, "http://p:3128"),
        ({"ALL_PROXY": "p:3128", "NO_PROXY": "h.example:8443"}, None),
    ],
)
def test_the_environment_is_read_as_by_the_standard_library(
    environment: pytest.MonkeyPatch, variables: Mapping[str, str], proxy: str | None
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert proxy_of("https://h.example:8443/api/v1") == proxy


@pytest.mark.parametrize(
    ("base", "exempt"),
    [
        ("https://h.example/api/v1", "h.example:443"),
        ("http://127.0.0.1/api/v1", "127.0.0.1:80"),
        ("https://[::1]:9/api/v1", "::1"),
    ],
)
def test_the_exempt_port_may_be_that_of_the_scheme(
    environment: pytest.MonkeyPatch, base: str, exempt: str
) -> None:
    environment.setenv("ALL_PROXY", "http://p:3128")
    environment.setenv("NO_PROXY", exempt)
    assert proxy_of(base) is None


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "SOCKS5", "socks"])
@pytest.mark.parametrize("how", ["given", "env"])
def test_socks_is_refused_in_words(environment: pytest.MonkeyPatch, how: str, scheme: str) -> None:
    environment.setenv("ALL_PROXY", f"{scheme}://user:{PROXY_CANARY}@127.0.0.1:1080")
    given = f"{scheme}://127.0.0.1:1080" if how == "given" else "env"
    with pytest.raises(ConfigurationError, match="SOCKS proxies are not supported") as caught:
        BackupsClient("vps_x", proxy=given)
    assert ("environment" in str(caught.value)) is (how == "env")
    assert_clean(caught.value)


# --- What a proxy may see -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "proxy", "allowed"),
    [
        ("https://h", "http://p.example", True),
        ("https://127.0.0.1:1", "http://p.example", True),
        ("http://127.0.0.1:1", "http://p.example", False),
        ("http://localhost", "https://p.example", False),
        ("http://[::1]", "10.0.0.1:3128", False),
        ("http://127.0.0.1:1", "http://127.0.0.1:3128", True),
        ("http://127.0.0.1:1", "localhost:3128", True),
    ],
)
def test_a_proxy_elsewhere_does_not_get_the_token_of_a_plain_api(
    base: str, proxy: str, allowed: bool
) -> None:
    assert proxy_of(base, proxy, allow_insecure=True)
    if allowed:
        assert proxy_of(base, proxy)
        BackupsClient("vps_x", base_url=base, proxy=proxy)
    else:
        with pytest.raises(ConfigurationError, match="would see the token"):
            BackupsClient("vps_x", base_url=base, proxy=proxy)
        BackupsClient("vps_x", base_url=base, proxy=proxy, allow_insecure=True)


# --- What a proxy refuses -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("base", ["https://backups.test", "http://127.0.0.1:9"])
async def test_a_proxy_that_wants_a_password_is_a_configuration_error_at_once(
    base: str, verb: str
) -> None:
    async with (
        RawServer(lambda _: http(407, b"", Proxy_Authenticate="Basic")).running() as proxy,
        BackupsClient("vps_x", base_url=base, proxy=proxy.url, retry=at_once(5)) as client,
    ):
        with pytest.raises(ConfigurationError, match=r"another user or password \(status 407\)"):
            await VERBS[verb](client)
        assert len(proxy.requests) == 1
        assert proxy.requests[0].startswith(b"CONNECT backups.test:443") is base.startswith("https")
        assert (b"vps_x" in proxy.requests[0]) is not base.startswith("https")


@pytest.mark.parametrize(
    ("base", "headers", "kind"),
    [
        ("https://backups.test", {}, ConfigurationError),
        ("http://127.0.0.1:9", {"Server": "tinyproxy/1.11.1"}, ConfigurationError),
        ("http://127.0.0.1:9", {"WWW_Authenticate": 'Basic realm="Tinyproxy"'}, ConfigurationError),
        ("http://127.0.0.1:9", {"Server": "nginx"}, AuthenticationError),
        ("http://127.0.0.1:9", {}, AuthenticationError),
    ],
)
async def test_a_401_of_tinyproxy_is_not_about_the_token(
    base: str, headers: Mapping[str, str], kind: type[Exception]
) -> None:
    async with (
        RawServer(lambda _: http(401, b"", **headers)).running() as proxy,
        BackupsClient("vps_x", base_url=base, proxy=proxy.url, retry=at_once(5)) as client,
    ):
        with pytest.raises(kind) as caught:
            await client.list().collect()
        assert len(proxy.requests) == 1
        assert ("token" in str(caught.value)) is (kind is AuthenticationError)


async def test_a_401_without_a_proxy_is_about_the_token() -> None:
    async with (
        RawServer(lambda _: http(401, b"", Server="Proxyman")).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(1)) as client,
    ):
        with pytest.raises(AuthenticationError):
            await client.list().collect()


@pytest.mark.parametrize(("status", "sent"), [(403, 1), (405, 1), (408, 2), (502, 2), (503, 2)])
async def test_a_tunnel_that_is_refused_for_good_is_not_asked_for_again(
    status: int, sent: int
) -> None:
    kind = ConfigurationError if sent == 1 else TransportError
    async with (
        RawServer(lambda _: http(status, b"")).running() as proxy,
        BackupsClient(
            "vps_x", base_url="https://backups.test", proxy=proxy.url, retry=at_once(2)
        ) as client,
    ):
        with pytest.raises(kind, match=f"proxy does not connect .* {status}") as caught:
            await client.create(1)
        assert len(proxy.requests) == sent
        assert getattr(caught.value, "sent", False) is False


# --- Passwords ------------------------------------------------------------------------------------

QUOTED: Final = PROXY_CANARY.replace("/", "%2F")
MISFITS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "a slash in the password": lambda: {"proxy": f"http://user:{PROXY_CANARY}@h:3128"},
    "a bracket": lambda: {"proxy": f"http://user:{QUOTED}@[h:3128"},
    "a port": lambda: {"proxy": f"http://user:{QUOTED}@h:99999"},
    "no host": lambda: {"proxy": f"http://user:{QUOTED}@"},
    "another scheme": lambda: {"proxy": f"ftp://user:{QUOTED}@h"},
    "no scheme": lambda: {"proxy": f"user:{PROXY_CANARY}@h"},
    "bytes": lambda: {"proxy": f"http://user:{QUOTED}@h".encode()},
    "elsewhere": lambda: {"proxy": f"http://user:{QUOTED}@h", "base_url": "http://127.0.0.1"},
    "a bad base_url": lambda: {"proxy": f"http://user:{QUOTED}@h", "base_url": "nonsense"},
    "a bad size": lambda: {"proxy": f"http://user:{QUOTED}@h", "max_response_bytes": 0},
    "a bad hook": lambda: {"proxy": f"http://user:{QUOTED}@h", "on_event": 5},
    "a bad context": lambda: {"proxy": f"http://user:{QUOTED}@h", "ssl_context": 5},
    "a bad limiter": lambda: {"proxy": f"http://user:{QUOTED}@h", "limiter": 5},
    "a bad token": lambda: {"proxy": f"http://user:{QUOTED}@h", "token": CANARY + "\n!"},
    "the token in base_url": lambda: {"base_url": f"https://{CANARY}.example"},
    "the token as base_url": lambda: {"base_url": CANARY},
    "the token in a path": lambda: {"base_url": f"https://h/{CANARY}"},
    "the token in a query": lambda: {"base_url": f"https://h/?token={CANARY}"},
    "the token as a user": lambda: {"base_url": f"https://{CANARY}@h"},
    "the token over http": lambda: {"base_url": f"http://{CANARY}"},
    "a URL with the token": lambda: {"base_url": URL(f"https://h/{CANARY}")},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_no_secret_shows_where_a_client_cannot_be_made(misfit: str) -> None:
    def make() -> BackupsClient:
        return BackupsClient(**{"token": CANARY, **MISFITS[misfit]()})

    with pytest.raises((ConfigurationError, ValueError)) as caught:
        make()
    assert assert_clean(caught.value) > 3


@pytest.mark.parametrize(
    "name", ["HTTPS_PROXY", "ALL_PROXY", "VPS_API_URL", "VPS_API_URL with a path"]
)
def test_no_secret_shows_where_the_environment_does_not_fit(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    variable, _, more = name.partition(" ")
    secret = f"{'https://h/' if more else ''}{CANARY}"
    is_url = variable == "VPS_API_URL"
    environment.setenv(variable, secret if is_url else f"http://u:{PROXY_CANARY}@[h")
    environment.setenv("VPS_API_TOKEN", CANARY)
    del secret
    with pytest.raises(ConfigurationError) as caught:
        BackupsClient(proxy="env")
    assert variable == "VPS_API_URL" or "environment" in str(caught.value)
    assert_clean(caught.value)


@pytest.mark.parametrize("what", ["refused", "name", "tunnel", "page", "no HTTP", "cut"])
async def test_a_proxys_password_shows_nowhere_whatever_goes_wrong(
    ear: Ear, spans: Spans, what: str
) -> None:
    """Also where the proxy says it back, as its own pages may."""

    def answer(request: bytes) -> bytes | None:
        said = request.partition(b"Proxy-Authorization: ")[2].partition(b"\r\n")[0]
        plain = base64.b64decode(said.removeprefix(b"Basic "))
        if what == "no HTTP":
            return b"HTTP/1.1 %s %s\r\n\r\n" % (plain, said)
        return None if what == "cut" else http(502, b"%s %s" % (said, plain), Via=said.decode())

    async with RawServer(answer).running() as proxy:
        host = "nowhere.invalid" if what == "name" else "127.0.0.1"
        port = closed_port() if what == "refused" else proxy.port
        client = BackupsClient(
            CANARY,
            base_url="http://127.0.0.1:9" if what == "page" else "https://backups.test",
            allow_insecure=True,
            proxy=f"http://user:{QUOTED}@{host}:{port}",
            retry=at_once(2),
            timeouts=Timeouts(connect=5, attempt=5),
        )
        async with client:
            assert_clean(client)
            for verb in VERBS.values():
                with pytest.raises(VPSBackupsError) as caught:
                    await verb(client)
                assert_clean(caught.value)
        if what not in {"refused", "name"}:
            credentials = base64.b64encode(f"user:{PROXY_CANARY}".encode())
            assert b"Proxy-Authorization: Basic " + credentials in proxy.requests[0]
        proxy.requests.clear()
    assert not holds(spans.text())
