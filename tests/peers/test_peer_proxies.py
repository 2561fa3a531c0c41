"""The client through tinyproxy and squid, with and without a password."""

import hashlib
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from helpers_peers import Calls, Record, Start, program
from helpers_redis import free_port

from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS

pytestmark = pytest.mark.peers

USER, PASSWORD = "ada", "canary-81c2e7"

TINYPROXY = """
Listen 127.0.0.1
Port {port}
Timeout 60
MaxClients 100
Allow 127.0.0.1
LogLevel Error
"""

SQUID = """
http_port 127.0.0.1:{port}
pid_filename none
access_log none
cache_log stdio:/dev/null
netdb_filename none
cache deny all
coredump_dir /
visible_hostname localhost
shutdown_lifetime 0 seconds
"""

SQUID_PASSWORD = """
auth_param basic program {helper} {users}
acl known proxy_auth REQUIRED
http_access allow known
"""


@pytest.fixture
def users() -> Iterator[Path]:
    """A password file that squid can read after it has given up root's rights."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        path = directory / "users"
        path.write_text(f"{USER}:{hashlib.md5(PASSWORD.encode()).hexdigest()}\n")
        path.chmod(0o644)
        yield path


class Proxy:
    """A tinyproxy or squid, which asks for a password if `password` is true."""

    def __init__(self, kind: str, start: Start, directory: Path) -> None:
        self._kind = kind
        self._program = program(kind)
        self._start = start
        self._path = directory / "proxy.conf"
        self._port = free_port()

    def url(self, credentials: str = "") -> str:
        """The URL for a client, with credentials such as `user:password@`."""
        return f"http://{credentials}127.0.0.1:{self._port}"

    async def start(self, users: Path | None) -> None:
        """Start it; it asks for a password if `users` is given."""
        if self._kind == "tinyproxy":
            ending = f"BasicAuth {USER} {PASSWORD}\n" if users else ""
            text, options = TINYPROXY, ["-d", "-c"]
        else:
            ending = "http_access allow all\n"
            if users:
                ending = SQUID_PASSWORD.format(helper=squid_helper(), users=users)
            text, options = SQUID, ["-N", "-f"]
        self._path.write_text(text.format(port=self._port) + ending)
        await self._start([self._program, *options, str(self._path)], self._port)


def squid_helper() -> Path:
    helper = next(Path("/usr/lib").glob("squid*/basic_ncsa_auth"), None)
    if helper is None:
        pytest.skip("squid's basic_ncsa_auth is not installed")
    return helper


@pytest.fixture(params=["tinyproxy", "squid"])
def proxy(request: pytest.FixtureRequest, start: Start, tmp_path: Path) -> Proxy:
    return Proxy(request.param, start, tmp_path)


@pytest.fixture(params=[True], ids=["https"])
async def behind(
    request: pytest.FixtureRequest, certified: ssl.SSLContext
) -> AsyncIterator[FakeVPS]:
    """The server behind the proxy: a plain one, and one that is reached by CONNECT."""
    context = certified if request.param else None
    async with FakeVPS(
        servers=600, backups=2, backup_seconds=0, clock=time.time, ssl_context=context
    ) as fake:
        yield fake


@pytest.mark.parametrize("password", [False, True], ids=["open", "password"])
async def test_calls_through_a_proxy_are_those_without(
    proxy: Proxy,
    behind: FakeVPS,
    trusting: ssl.SSLContext,
    users: Path,
    password: bool,
    record: Record,
) -> None:
    await proxy.start(users if password else None)
    calls = Calls(behind, lists=200, creates=100, deletes=50, restores=50)
    url = proxy.url(f"{USER}:{PASSWORD}@" if password else "")
    async with BackupsClient(
        behind.token, base_url=behind.url, proxy=url, ssl_context=trusting
    ) as client:
        tally = await calls.play(client, together=24)
    record(tally)
    assert not tally.problems


async def test_a_proxy_of_the_environment_is_used(
    proxy: Proxy,
    behind: FakeVPS,
    trusting: ssl.SSLContext,
    users: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await proxy.start(users)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.url(f"{USER}:{PASSWORD}@"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with BackupsClient(
        behind.token, base_url=behind.url, proxy="env", ssl_context=trusting
    ) as client:
        assert len(await client.list(server_id=1).collect()) == 2
    assert len(behind.requests) == 1
