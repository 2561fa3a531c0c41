"""`Fleet.create` with the options of `create`: what runs already, markers and labels."""

import asyncio
from datetime import date
from typing import Any

import pytest

from vpsbackups_async import Backup, BackupInProgressError, BackupsClient, Outcome, WaitTimeoutError
from vpsbackups_async.testing import FakeVPS, Latency, SeenRequest

pytestmark = [pytest.mark.fake_vps(backups=0, backup_seconds=600), pytest.mark.virtual_time]


async def outcomes_of(client: BackupsClient, **options: Any) -> dict[int, Outcome[int, Backup]]:
    fleet = client.fleet([1, 2, 3])
    return {outcome.key: outcome async for outcome in fleet.create(**options)}


@pytest.fixture
def running(fake: FakeVPS) -> int:
    """A backup of server 2 that runs for another 300 s; the server takes no second one."""
    fake.one_at_a_time = True
    made: int = fake.add_backup(2, status="in_progress", seconds=300)["id"]
    return made


async def test_a_running_backup_is_left_to_the_server_to_refuse(
    running: int, client: BackupsClient
) -> None:
    outcomes = await outcomes_of(client)
    assert isinstance(outcomes[2].error, BackupInProgressError)
    assert outcomes[1].ok
    assert outcomes[3].ok


async def test_a_running_backup_is_adopted_and_waited_for(
    fake: FakeVPS, running: int, client: BackupsClient
) -> None:
    outcomes = await outcomes_of(client, if_running="adopt", wait=True)
    assert all(outcome.unwrap().is_completed for outcome in outcomes.values())
    assert outcomes[2].unwrap().id == running
    assert fake.count("POST") == 2


async def test_the_end_of_a_running_backup_is_waited_for_before_another_is_made(
    fake: FakeVPS, running: int, client: BackupsClient
) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    outcomes = await outcomes_of(client, if_running="wait")
    assert 300 <= loop.time() - begin <= 300 + 120
    assert outcomes[2].unwrap().id != running
    assert fake.count("POST", status=201) == 3


async def test_a_running_backup_that_is_waited_for_takes_no_place(
    fake: FakeVPS, running: int, client: BackupsClient
) -> None:
    loop = asyncio.get_running_loop()
    begin, ended = loop.time(), {}
    fleet = client.fleet([2, 1, 3], concurrency=1)
    async for outcome in fleet.create(if_running="wait"):
        assert outcome.unwrap().id != running
        ended[outcome.key] = loop.time() - begin
    assert list(ended) == [1, 3, 2]
    assert ended[3] < 1
    assert ended[2] >= 300


async def test_creates_after_a_wait_take_a_place_again(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.one_at_a_time = True
    fake.inject(Latency(5, method="POST"))
    for server_id in (1, 2, 3):
        fake.add_backup(server_id, status="in_progress", seconds=300)
    loop, posted = asyncio.get_running_loop(), []

    def watch(seen: SeenRequest) -> None:
        if seen.method == "POST":
            posted.append(loop.time())

    fake.on_request = watch
    fleet = client.fleet([1, 2, 3], concurrency=1)
    outcomes = [outcome async for outcome in fleet.create(if_running="wait")]
    assert all(outcome.ok for outcome in outcomes)
    first, second, third = posted
    assert second - first >= 5
    assert third - second >= 5


async def test_leaving_the_loop_ends_the_waits_that_take_no_place(
    fake: FakeVPS, running: int, client: BackupsClient
) -> None:
    outcomes = client.fleet([2, 1, 3], concurrency=1).create(if_running="wait")
    assert (await anext(outcomes)).key == 1
    await outcomes.aclose()
    await asyncio.sleep(600)
    assert fake.count("POST") <= 2


async def test_max_running_bounds_the_waits_for_running_backups_too(
    fake: FakeVPS, running: int, client: BackupsClient
) -> None:
    fleet = client.fleet([2, 1, 3], concurrency=1)
    outcomes = fleet.create(if_running="wait", max_running=1)
    assert [outcome.key async for outcome in outcomes] == [2, 1, 3]


async def test_the_timeout_bounds_the_wait_for_a_running_backup_too(
    fake: FakeVPS, running: int, client: BackupsClient
) -> None:
    outcomes = await outcomes_of(client, if_running="wait", timeout=60)
    error = outcomes[2].error
    assert isinstance(error, WaitTimeoutError)
    assert error.ref.id == running
    assert outcomes[1].ok
    assert fake.count("POST") == 2


async def test_a_timeout_without_end_waits_as_long_as_it_takes(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.one_at_a_time = True
    fake.add_backup(2, status="in_progress", seconds=8 * 3600)
    outcomes = await outcomes_of(client, if_running="wait", timeout=None)
    assert outcomes[2].ok


async def test_a_marker_of_your_own_makes_a_repeat_of_the_whole_job_safe(
    fake: FakeVPS, client: BackupsClient
) -> None:
    first = await outcomes_of(client, description="Nightly", marker="2026-11-25")
    async with BackupsClient(fake.token, base_url=fake.url) as other:
        again = await outcomes_of(other, description="Nightly", marker="2026-11-25")
    assert {key: outcome.unwrap().id for key, outcome in first.items()} == {
        key: outcome.unwrap().id for key, outcome in again.items()
    }
    assert {outcome.unwrap().description for outcome in first.values()} == {
        "Nightly [vb:2026-11-25]"
    }
    assert fake.count("POST") == 3


async def test_marker_true_gives_each_backup_a_marker_of_its_own(client: BackupsClient) -> None:
    outcomes = await outcomes_of(client, marker=True)
    texts = {outcome.unwrap().description for outcome in outcomes.values()}
    assert len(texts) == 3
    assert all(text.startswith("[vb:") for text in texts)


async def test_each_backup_is_pinned_and_gets_the_job(client: BackupsClient) -> None:
    outcomes = await outcomes_of(
        client, description="Nightly", keep=date(2027, 1, 1), job="nightly"
    )
    texts = [outcome.unwrap().description for outcome in outcomes.values()]
    assert texts == ["Nightly [keep:2027-01-01] [job:nightly]"] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"if_running": "skip"},
        {"if_running": None},
        {"marker": "a b"},
        {"marker": 7},
        {"marker": ""},
        {"keep": "2027-01-01"},
        {"job": "a b"},
        {"job": "web", "description": "[job:db] Nightly"},
    ],
)
async def test_options_are_checked_before_anything_is_started(
    fake: FakeVPS, client: BackupsClient, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        client.fleet([1, 2, 3]).create(**options)
    assert fake.count() == 0
