"""The client through nginx: TLS, limits, connections that are closed, timeouts."""

import asyncio
import os
import random
import signal
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from helpers_peers import Calls, Record, Start, program
from helpers_redis import free_port

from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS, Latency

pytestmark = pytest.mark.peers

CONFIGURATION = """
daemon off;
worker_processes 2;
pid {directory}/nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    limit_req_zone $binary_remote_addr zone=pace:1m rate=50r/s;
    limit_conn_zone $binary_remote_addr zone=few:1m;
    upstream web {{ server 127.0.0.1:{origin}; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{
            proxy_pass http://web;
            {host}
            {options}
        }}
    }}
}}
"""

AS_ASKED = "proxy_set_header Host $http_host;"


class Nginx:
    """nginx with TLS in front of an origin; `url` is its address."""

    def __init__(self, start: Start, directory: Path, certificate: Path) -> None:
        self._program = program("nginx")
        self._start = start
        self._directory = directory
        self._certificate = certificate
        self._port = free_port()
        self.url = f"https://localhost:{self._port}"

    async def start(
        self, origin: FakeVPS, options: str = "", host: str = AS_ASKED
    ) -> "subprocess.Popen[bytes]":
        """Start it with these directives of a location, and `host` for the origin to see."""
        path = self._directory / "nginx.conf"
        path.write_text(
            CONFIGURATION.format(
                directory=self._directory,
                user="user root;" if os.getuid() == 0 else "",
                origin=origin.url.rpartition(":")[2],
                port=self._port,
                certificate=self._certificate,
                host=host,
                options=options,
            )
        )
        command = [self._program, "-p", str(self._directory), "-c", str(path)]
        return await self._start(command, self._port)


@pytest.fixture
def nginx(start: Start, tmp_path: Path, certificate: Path) -> Nginx:
    return Nginx(start, tmp_path, certificate)


@pytest.mark.parametrize(
    "limit",
    [
        "limit_req zone=pace burst=5 nodelay; limit_req_status 429;",
        "limit_conn few 4; limit_conn_status 429;",
        "limit_req zone=pace burst=5 nodelay;",
        "limit_conn few 4;",
    ],
    ids=["pace-429", "connections-429", "pace-503", "connections-503"],
)
async def test_what_a_limit_refuses_is_sent_again_until_it_is_let_through(
    nginx: Nginx,
    origin: FakeVPS,
    trusting: ssl.SSLContext,
    limit: str,
    record: Record,
) -> None:
    origin.inject(Latency(0.02))
    await nginx.start(origin, limit)
    calls = Calls(origin, lists=406, creates=99)
    async with BackupsClient(origin.token, base_url=nginx.url, ssl_context=trusting) as client:
        tally = await calls.play(client)
    record(tally)
    assert not tally.problems
    # Some are refused, and a create that was refused with a 503 is looked for as well.
    assert tally.requests <= 2 * 505


async def test_connections_that_end_after_twenty_requests_cost_nothing(
    nginx: Nginx,
    origin: FakeVPS,
    trusting: ssl.SSLContext,
    record: Record,
) -> None:
    await nginx.start(origin, "keepalive_requests 20;")
    calls = Calls(origin, lists=1000, creates=600, deletes=200, restores=200)
    async with BackupsClient(origin.token, base_url=nginx.url, ssl_context=trusting) as client:
        tally = await calls.play(client)
    record(tally)
    assert not tally.problems
    # A restore first looks at its backup, and a create once at those of its server.
    assert tally.requests == tally.arrived
    assert origin.count("POST", "/backups/") == 600


async def test_creates_at_the_moment_when_idle_connections_end_are_never_unknown(
    nginx: Nginx, origin: FakeVPS, trusting: ssl.SSLContext
) -> None:
    await nginx.start(origin, "keepalive_timeout 1s;")
    pauses = random.Random(7)

    async def create_each_second(server_id: int) -> None:
        async with BackupsClient(origin.token, base_url=nginx.url, ssl_context=trusting) as client:
            for _ in range(8):
                await client.create(server_id)
                await client.list(server_id=server_id).first()
                await asyncio.sleep(pauses.uniform(0.998, 1.003))

    async with asyncio.TaskGroup() as group:
        for server_id in range(1, 61):
            group.create_task(create_each_second(server_id))
    assert origin.count("POST", "/backups/") == 60 * 8


async def test_a_reload_every_second_leaves_no_create_unknown(
    nginx: Nginx,
    origin: FakeVPS,
    trusting: ssl.SSLContext,
    record: Record,
) -> None:
    process = await nginx.start(origin)
    calls = Calls(origin, lists=1000, creates=600, deletes=200, restores=200)

    async def reload() -> None:
        while True:
            await asyncio.sleep(1)
            process.send_signal(signal.SIGHUP)

    reloading = asyncio.create_task(reload())
    async with BackupsClient(origin.token, base_url=nginx.url, ssl_context=trusting) as client:
        tally = await calls.play(client, between=lambda: asyncio.sleep(0.2))
    reloading.cancel()
    record(tally)
    assert not tally.problems
    assert origin.count("POST", "/backups/") == 600


async def test_creates_that_outlive_the_timeout_of_nginx_are_found_by_any_clock(
    nginx: Nginx, trusting: ssl.SSLContext, record: Record
) -> None:
    async with FakeVPS(
        servers=600, backups=2, backup_seconds=0, clock=lambda: time.time() - 5
    ) as origin:
        # nginx gives the time by its own clock, five seconds ahead of the origin's.
        origin.inject(Latency(2, method="POST", path="/backups/"))
        await nginx.start(origin, "proxy_read_timeout 1s;")
        calls = Calls(origin, lists=100, creates=100)
        async with BackupsClient(origin.token, base_url=nginx.url, ssl_context=trusting) as client:
            tally = await calls.play(client)
        record(tally)
        assert not tally.problems
        assert origin.count("POST") == 100
