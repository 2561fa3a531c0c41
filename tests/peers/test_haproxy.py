"""The client through HAProxy: its queue, and an origin that goes away and comes back."""

import asyncio
from pathlib import Path

import pytest
from helpers_peers import Calls, Record, Start, program
from helpers_redis import free_port

from vpsbackups_async import BackupsClient, CreateOutcomeUnknownError, RetryPolicy
from vpsbackups_async.testing import FakeVPS, Latency, SeenRequest

pytestmark = pytest.mark.peers

CONFIGURATION = """
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    timeout queue {queue}
    retries {retries}
frontend edge
    bind 127.0.0.1:{port}
    default_backend web
backend web
    server web 127.0.0.1:{origin} maxconn {most}
"""


class HAProxy:
    """HAProxy in front of an origin."""

    def __init__(self, start: Start, directory: Path) -> None:
        self._program = program("haproxy")
        self._start = start
        self._path = directory / "haproxy.cfg"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(
        self, origin: FakeVPS, *, queue: str = "20s", retries: int = 3, most: int = 100
    ) -> None:
        """Start it; it sends at most `most` requests to the origin at once and queues others."""
        self._path.write_text(
            CONFIGURATION.format(
                port=self._port,
                origin=origin.url.rpartition(":")[2],
                queue=queue,
                retries=retries,
                most=most,
            )
        )
        await self._start([self._program, "-db", "-f", str(self._path)], self._port)


@pytest.fixture
def haproxy(start: Start, tmp_path: Path) -> HAProxy:
    return HAProxy(start, tmp_path)


async def test_a_queue_delays_calls_and_fails_none(
    haproxy: HAProxy, origin: FakeVPS, record: Record
) -> None:
    origin.inject(Latency(0.02))
    await haproxy.start(origin, most=4)
    calls = Calls(origin, lists=250, creates=150, deletes=50, restores=50)
    async with BackupsClient(origin.token, base_url=haproxy.url) as client:
        tally = await calls.play(client)
    record(tally)
    assert not tally.problems
    assert tally.requests == tally.arrived


def restart_under_creates(origin: FakeVPS, group: asyncio.TaskGroup) -> None:
    """After 150 creates have arrived, cut the origin's connections and keep it away for 1.5 s."""
    begun = asyncio.Event()

    def note(_seen: SeenRequest) -> None:
        if origin.count("POST") == 150:
            begun.set()

    async def restart() -> None:
        await begun.wait()
        await origin.stop()
        await asyncio.sleep(1.5)
        await origin.start()

    origin.on_request = note
    group.create_task(restart())


# Creates take so long before and after they are carried out that a cut meets some of each.
WORK = (
    Latency(lambda seen: seen.number * 37 % 100 / 500),
    Latency(lambda seen: seen.number * 23 % 100 / 500, when="after"),
)


def made_and_cut(origin: FakeVPS) -> int:
    """How many creates were carried out whose answer was cut off."""
    made = {backup["description"] for backup in origin.backups}
    cut = [seen for seen in origin.requests if seen.method == "POST" and seen.status is None]
    return sum(seen.json["description"] in made for seen in cut)


@pytest.mark.parametrize("retries", [3])
async def test_an_origin_that_is_killed_fails_only_creates_whose_outcome_nobody_knows(
    haproxy: HAProxy,
    origin: FakeVPS,
    retries: int,
    record: Record,
) -> None:
    origin.inject(*WORK)
    await haproxy.start(origin, retries=retries)
    calls = Calls(origin, creates=500)
    policy = RetryPolicy(create_grace=4)
    async with (
        asyncio.TaskGroup() as group,
        BackupsClient(origin.token, base_url=haproxy.url, retry=policy) as client,
    ):
        restart_under_creates(origin, group)
        tally = await calls.play(client)
    cut = made_and_cut(origin)
    record(f"{tally}, {cut} carried out and cut")
    assert cut
    assert (tally.doubled, tally.lost) == (0, 0)
    assert tally.unknown <= 64
    assert not [one for one in tally.problems if CreateOutcomeUnknownError.__name__ not in one]


@pytest.mark.parametrize("retries", [3])
async def test_an_origin_that_is_killed_fails_no_create_that_may_be_sent_again(
    haproxy: HAProxy,
    origin: FakeVPS,
    retries: int,
    record: Record,
) -> None:
    origin.inject(*WORK)
    await haproxy.start(origin, retries=retries)
    calls = Calls(origin, creates=500)
    policy = RetryPolicy(create_grace=4, create_again_after=4)
    async with (
        asyncio.TaskGroup() as group,
        BackupsClient(origin.token, base_url=haproxy.url, retry=policy) as client,
    ):
        restart_under_creates(origin, group)
        tally = await calls.play(client)
    record(tally)
    assert not tally.problems
