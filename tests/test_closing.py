"""close() while a create is being settled: what ends at once, and what goes on until it is done."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers_transport import VERBS

from vpsbackups_async import (
    AdaptiveLimiter,
    Backup,
    BackupRef,
    BackupsClient,
    ConfigurationError,
    CreateOutcomeUnknownError,
    RetryPolicy,
    Timeouts,
    WaitError,
)
from vpsbackups_async.testing import Drop, FakeVPS, Latency, RateLimit, ServerFault

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


class Settling:
    """A client that is being closed for as long as a create of server 3 is settled."""

    def __init__(self, fake: FakeVPS) -> None:
        self.fake = fake
        self.client = BackupsClient(fake.token, base_url=fake.url, limiter=AdaptiveLimiter(4))
        self.closing: asyncio.Task[None] | None = None
        fake.inject(Drop(method="POST", times=1))
        self.create = asyncio.create_task(self.client.create(3))

    async def close(self) -> None:
        """Begin to close, and return while that lasts."""
        self.closing = asyncio.create_task(self.client.close())
        await asyncio.sleep(0.1)
        assert not self.closing.done()


@pytest.fixture
async def settling(fake: FakeVPS) -> AsyncIterator[Settling]:
    settling = Settling(fake)
    await asyncio.sleep(1)
    yield settling
    assert settling.closing is not None
    await settling.closing
    with pytest.raises(CreateOutcomeUnknownError, match="showed none"):
        await settling.create


@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_made_while_a_client_is_being_closed_is_refused(
    settling: Settling, verb: str
) -> None:
    await settling.close()
    count = settling.fake.count("POST"), settling.fake.count("DELETE")
    began = now()
    with pytest.raises(ConfigurationError, match="being closed"):
        await VERBS[verb](settling.client)
    assert now() == began
    assert (settling.fake.count("POST"), settling.fake.count("DELETE")) == count


@pytest.mark.parametrize(
    ("verb", "fault"),
    [
        *((verb, RateLimit(60)) for verb in VERBS),
        *((verb, ServerFault(503, retry_after=60)) for verb in ("list", "delete", "create")),
    ],
    ids=lambda value: getattr(value, "status", None),
)
async def test_calls_that_wait_or_pause_end_at_once_while_a_create_is_settled(
    settling: Settling, verb: str, fault: Any
) -> None:
    fake, client = settling.fake, settling.client
    fake.inject(fault)
    call = asyncio.ensure_future(VERBS[verb](client))
    await asyncio.sleep(1)
    began = now()
    fake.clear_faults()
    await settling.close()
    is_in_doubt = verb == "create" and isinstance(fault, ServerFault)
    kind = CreateOutcomeUnknownError if is_in_doubt else ConfigurationError
    with pytest.raises(kind, match="closed"):
        await asyncio.wait_for(call, 0.2)
    assert now() - began < 1


async def test_a_create_is_settled_though_the_limiter_is_closed_when_the_client_is(
    fake: FakeVPS,
) -> None:
    fake.inject(Drop("after", method="POST", times=1), RateLimit(20, method="GET", times=1))
    client = BackupsClient(fake.token, base_url=fake.url)
    create = asyncio.create_task(client.create(3))
    await asyncio.sleep(1)
    await client.close()
    assert (await create).id == fake.backups[-1]["id"]
    assert now() > 20


async def test_creates_in_line_when_a_client_is_closed_get_one_error_about_that(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(2, method="POST"))
    client = BackupsClient(fake.token, base_url=fake.url, limiter=AdaptiveLimiter(1))
    creates = [asyncio.create_task(client.create(number)) for number in (1, 2, 2, 3)]
    await asyncio.sleep(1)
    closing = asyncio.create_task(client.close())
    ends = await asyncio.gather(*creates, return_exceptions=True)
    await closing
    assert isinstance(ends[0], Backup)
    assert len(fake.backups) == 15 + 1
    assert {type(end) for end in ends[1:]} == {ConfigurationError}
    assert len({str(end) for end in ends[1:]}) == 1
    assert "closed" in str(ends[1])


@pytest.mark.parametrize("if_running", ["raise", "adopt", "wait"])
async def test_creates_behind_the_one_that_is_settled_end_at_once(
    settling: Settling, if_running: Any
) -> None:
    behind = asyncio.create_task(settling.client.create(3, if_running=if_running))
    await asyncio.sleep(1)
    await settling.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await asyncio.wait_for(behind, 0.2)


async def test_a_create_that_reads_what_is_there_ends_at_once(settling: Settling) -> None:
    settling.fake.inject(Latency(20, query={"server_id": 2}))
    reading = asyncio.create_task(settling.client.create(2, marker="nightly"))
    await asyncio.sleep(1)
    await settling.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await asyncio.wait_for(reading, 0.2)


async def test_requests_under_way_go_on_until_the_create_is_settled(settling: Settling) -> None:
    settling.fake.inject(Latency(5, method="DELETE"))
    delete = asyncio.create_task(settling.client.delete(1))
    await asyncio.sleep(1)
    await settling.close()
    await delete
    assert settling.closing is not None
    assert not settling.closing.done()


async def test_a_request_under_way_is_not_sent_again_while_the_client_is_being_closed(
    settling: Settling,
) -> None:
    settling.fake.inject(Latency(2, method="DELETE"), ServerFault(500, method="DELETE"))
    delete = asyncio.create_task(settling.client.delete(1))
    await asyncio.sleep(1)
    await settling.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await delete
    assert settling.fake.count("DELETE") == 1


async def test_a_look_that_runs_out_of_time_while_the_client_is_closed_says_so(
    fake: FakeVPS,
) -> None:
    fake.inject(Drop(method="POST", times=1), RateLimit(100, method="GET"))
    client = BackupsClient(
        fake.token,
        base_url=fake.url,
        timeouts=Timeouts(deadline=10),
        retry=RetryPolicy(max_retry_after=1e3),
    )
    create = asyncio.create_task(client.create(3))
    await asyncio.sleep(1)
    await client.close()
    with pytest.raises(CreateOutcomeUnknownError) as caught:
        await create
    assert "closed: make" not in str(caught.value)


async def test_a_second_close_waits_for_the_create_as_well(settling: Settling) -> None:
    behind = asyncio.create_task(settling.client.create(3))
    await asyncio.sleep(0.1)
    settling.closing = asyncio.create_task(settling.client.close())
    for _ in range(2):
        await asyncio.sleep(0)  # then what is in line is just about to end
    await settling.client.close()
    assert settling.create.done()
    assert isinstance(behind.exception(), ConfigurationError)


async def test_the_first_wait_of_a_client_that_is_being_closed_ends_at_once_with_its_ref(
    fake: FakeVPS,
) -> None:
    client = BackupsClient(fake.token, base_url=fake.url)

    async def work() -> Backup:
        await asyncio.sleep(0.5)
        return await client.wait(BackupRef(1, 1))

    job = client.background(work())
    closing = asyncio.create_task(client.close())
    with pytest.raises(WaitError, match="the client was closed") as caught:
        await job
    assert caught.value.ref == BackupRef(1, 1)
    assert now() == pytest.approx(0.5)
    await closing
    assert fake.requests == []
