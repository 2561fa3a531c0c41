"""A create whose answer is lost: what is found by looking, and what is never sent again."""

import asyncio
import json
import logging
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from helpers_creating import RETRY, client_of, posts

from vpsbackups_async import (
    AdaptiveLimiter,
    Backup,
    BackupsClient,
    CreateOutcomeUnknownError,
    InvalidResponseError,
    ManualBackupLimitError,
    PaginationError,
    RetryPolicy,
    ServerError,
    Timeouts,
    TransportError,
    UnexpectedRedirectError,
    fan_out,
)
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Latency,
    NotJSON,
    Redirect,
    Reply,
    SeenRequest,
    ServerFault,
    Truncate,
)

pytestmark = [pytest.mark.fake_vps(backups=0, backup_seconds=600), pytest.mark.virtual_time]
AGAIN = RetryPolicy(attempts=5, backoff=RETRY.backoff, create_again_after=30)
OLD = "2025-01-01T00:00:00Z"

OTHERS = json.dumps(
    {
        "id": 1,
        "server": {"id": 3, "name": ""},
        "backup_type": "manual",
        "status": "in_progress",
        "size_mb": None,
        "created_at": OLD,
        "expires_at": None,
        "description": "x",
    }
).encode()

LOST = [
    Drop("after", method="POST", times=1),
    ServerFault(500, method="POST", when="after", times=1),
    ServerFault(502, method="POST", when="after", times=1),
    ServerFault(503, method="POST", when="after", times=1),
    ServerFault(504, html=True, method="POST", when="after", times=1),
    NotJSON(201, method="POST", when="after", times=1),
    Truncate(method="POST", times=1),
    Latency(1000, method="POST", times=1, when="after"),
    Reply(201, OTHERS, method="POST", times=1, when="after"),
]
LOST_IDS = ["cut", "500", "502", "503", "504", "no JSON", "truncated", "timeout", "another server"]


def started(seen: SeenRequest, first: SeenRequest) -> float:
    return seen.at - first.at


# --- Found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", LOST, ids=LOST_IDS)
async def test_a_backup_whose_answer_was_lost_is_found_and_given_back(
    fake: FakeVPS, fault: Fault
) -> None:
    for server_id in (1, 2):
        fake.add_backup(server_id, description="x", created_at=OLD)
    fake.inject(fault)
    async with client_of(fake) as client:
        backup = await client.create(2, description="x")
    assert (backup.server.id, backup.description, backup.status) == (2, "x", "in_progress")
    assert backup.id == 3
    assert len(posts(fake)) == 1
    assert len(fake.backups) == 3


async def test_an_answer_about_another_server_is_no_success(fake: FakeVPS) -> None:
    fake.inject(Reply(201, OTHERS, method="POST"))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="of server 3") as caught:
            await client.create(2, description="x")
    assert isinstance(caught.value.__cause__, InvalidResponseError)
    assert caught.value.__cause__.place == "id"
    assert len(posts(fake)) == 1


async def test_a_backup_that_is_listed_late_is_waited_for(fake: FakeVPS) -> None:
    fake.visible_after = 14
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        backup = await client.create(1)
    assert backup.server.id == 1
    assert len(posts(fake)) == 1


@pytest.mark.parametrize("ahead", [-590, -6, 6, 590])
async def test_a_backup_is_found_whatever_the_edge_says_the_time_is(
    fake: FakeVPS, ahead: float
) -> None:
    fake.date_ahead = ahead
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        assert (await client.create(1)).id == 1
    assert len(posts(fake)) == 1


@pytest.mark.fake_vps(backups=0, new_ids="down")
async def test_a_backup_is_found_although_its_id_is_below_an_older_one(fake: FakeVPS) -> None:
    fake.add_backup(1, created_at=OLD)
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        assert (await client.create(1)).id == 999_999
    assert len(posts(fake)) == 1


async def test_a_backup_is_found_though_the_server_tells_no_time_that_fits(fake: FakeVPS) -> None:
    """Neither clock is near the creation time, so that only the marker tells."""
    fake.date_ahead = 86_400
    fake.inject(Drop("after", method="POST", times=2))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1)
        marked = await client.create(2, marker=True)
    assert [backup.id for backup in caught.value.candidates] == [1]
    assert marked.id == 2


async def test_the_good_case_costs_one_request(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        await client.create(1, description="x")
        await client.create(2, description="x", marker=True)
    assert fake.count() == 2


async def test_another_servers_backup_is_never_taken(fake: FakeVPS) -> None:
    """The server ignores the filter."""
    other = fake.add_backup(2, description="x", status="in_progress")
    page = json.dumps({"count": 1, "results": [other]}).encode()
    fake.inject(Drop(method="POST", times=1), Reply(200, page, method="GET"))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="x")
    assert caught.value.candidates == ()


async def test_it_is_said_how_sure_it_is_that_a_found_backup_is_the_right_one(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vpsbackups_async")
    fake.inject(Drop("after", method="POST", times=2))
    async with client_of(fake) as client:
        likely = await client.create(1)
        certain = await client.create(2, marker=True)
    likely_line, certain_line = (
        record.getMessage() for record in caplog.records if record.levelno == logging.INFO
    )
    assert f"backup {likely.id} of server 1 is taken for" in likely_line
    assert f"found backup {certain.id}" in certain_line


async def test_with_a_single_attempt_nothing_is_looked_at(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST", times=1), ServerFault(503, method="POST"))
    async with client_of(fake, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1)
        with pytest.raises(ServerError):
            await client.create(2)
        assert fake.count() == 2
        assert (await client.settle(caught.value)).id == 1


# --- Not found, and never sent again -------------------------------------------------------------


@pytest.mark.parametrize("fault", [*LOST[:3], *LOST[4:]], ids=[*LOST_IDS[:3], *LOST_IDS[4:]])
async def test_a_create_that_may_have_been_carried_out_is_never_sent_again(
    fake: FakeVPS, fault: Fault
) -> None:
    fake.visible_after = 1e6
    fake.inject(fault)
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1)
    post, *looks = fake.requests
    assert {seen.method for seen in looks} == {"GET"}
    failed_at = 30.0 if isinstance(fault, Latency) else 0.0
    # The first look comes at once, the last one after the whole grace.
    at = [started(look, post) - failed_at for look in looks]
    assert at == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 11.5, 15], abs=0.1)
    assert caught.value.candidates == ()
    assert f"{len(looks)} looks over 15 s showed none" in str(caught.value)
    assert caught.value.__cause__ is not None


async def test_a_gateway_that_gives_up_before_the_server_is_done_makes_no_second_backup(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(504, method="POST", when="later", late=10, times=1))
    async with client_of(fake) as client:
        assert (await client.create(1)).id == 1
        fake.inject(ServerFault(504, method="POST", when="later", late=30, times=1))
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(2)
        await asyncio.sleep(20)
        assert (await client.settle(caught.value)).id == 2
    assert len(posts(fake)) == 2


async def test_the_grace_counts_from_the_first_look_that_succeeds(fake: FakeVPS) -> None:
    """The server restarts for 40 s with a create in flight, and its list lags after that."""
    fake.visible_after = 50
    fake.inject(Drop("after", method="POST", times=1))
    fake.on_request = lambda _: fake.inject(ServerFault(503, method="GET"))
    async with client_of(fake) as client:
        call = asyncio.create_task(client.create(1))
        await asyncio.sleep(40)
        fake.on_request = None
        fake.clear_faults()
        assert (await call).id == 1
    assert len(posts(fake)) == 1


@pytest.mark.timeout(240)  # 12 s on an idle machine, much more beside other work
async def test_a_server_that_restarts_for_8_s_with_500_creates_in_flight_loses_none() -> None:
    async with (
        FakeVPS(servers=500, faults=[Latency(3, method="POST", when="after")]) as fake,
        client_of(fake, retry=RetryPolicy(), limiter=AdaptiveLimiter(500)) as client,
    ):
        calls = [asyncio.create_task(client.create(server_id)) for server_id in range(1, 501)]
        await asyncio.sleep(2)
        assert len(fake.backups) == 500
        await fake.stop()
        await asyncio.sleep(8)
        await fake.start()
        made = await asyncio.gather(*calls)
        assert {backup.id for backup in made} == {held["id"] for held in fake.backups}
        assert len(fake.backups) == 500


async def test_looks_that_all_fail_leave_the_outcome_unknown(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST"), ServerFault(503, method="GET"))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="looking at the server") as caught:
            await client.create(1)
    assert len(posts(fake)) == 1
    assert isinstance(caught.value.__cause__, TransportError)


@pytest.mark.parametrize(
    "fault",
    [ServerFault(404, method="GET"), NotJSON(method="GET")],
    ids=["404", "no JSON"],
)
async def test_looks_that_fail_for_a_lasting_reason_end_with_the_grace(
    fake: FakeVPS, fault: Fault
) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Drop("after", method="POST"), fault)
    async with client_of(fake) as client:
        began = loop.time()
        with pytest.raises(CreateOutcomeUnknownError, match="looking at the server"):
            await client.create(1)
        assert 15 <= loop.time() - began <= 20
        began = loop.time()
    async with client_of(fake, retry=RetryPolicy(create_grace=0)) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="looking at the server"):
            await client.create(1)
        assert loop.time() - began <= 1


async def test_without_a_grace_there_is_one_look(fake: FakeVPS) -> None:
    fake.inject(Drop(method="POST"), ServerFault(501, method="GET", times=1))
    async with client_of(fake, retry=RetryPolicy(create_grace=0)) as client:
        for _ in range(2):
            with pytest.raises(CreateOutcomeUnknownError):
                await client.create(1)
    assert [seen.method for seen in fake.requests] == ["POST", "GET"] * 2


async def test_a_list_that_keeps_moving_leaves_the_outcome_unknown(fake: FakeVPS) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at=OLD)

    def move(seen: Any) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at=OLD)

    fake.on_request = move
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake, retry=AGAIN) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="moved while it was read"):
            await client.create(1)
    assert len(posts(fake)) == 1


async def test_the_deadline_holds_for_the_looks_too(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Drop(method="POST"), Latency(1000, method="GET"))
    async with client_of(fake, timeouts=Timeouts(deadline=8)) as client:
        began = loop.time()
        with pytest.raises(CreateOutcomeUnknownError, match="no time"):
            await client.create(1)
        assert loop.time() - began <= 8.01
    assert len(posts(fake)) == 1


async def test_a_look_cut_short_by_the_deadline_is_no_proof(fake: FakeVPS) -> None:
    """The looks show nothing for as long as they succeed, but the last one does not end."""
    fake.inject(Drop(method="POST"), Latency(1000, method="GET", after=2))
    retry = RetryPolicy(attempts=5, create_grace=4, create_again_after=4)
    async with client_of(fake, retry=retry, timeouts=Timeouts(deadline=4)) as client:
        with pytest.raises(CreateOutcomeUnknownError):
            await client.create(1)
    assert len(posts(fake)) == 1


async def test_two_backups_that_may_be_ours_are_named(fake: FakeVPS) -> None:
    def twin(seen: Any) -> None:
        if seen.method == "GET":
            fake.on_request = None
            fake.add_backup(1, description="x", status="in_progress")

    fake.inject(Drop("after", method="POST", times=1))
    fake.on_request = twin
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="x")
    assert [backup.id for backup in caught.value.candidates] == [2, 1]
    assert "2, 1" in str(caught.value)
    assert fake.count("GET") == 1  # more looks could not tell them apart
    assert len(posts(fake)) == 1


@pytest.mark.parametrize("status", ["in_progress", "completed", "failed"])
async def test_a_new_backup_with_another_description_is_a_candidate_and_not_adopted(
    fake: FakeVPS, status: str
) -> None:
    def other(seen: Any) -> None:
        if seen.method == "GET":
            fake.on_request = None
            fake.add_backup(1, description="somebody else's", status=status)

    fake.inject(Drop(method="POST", times=1))
    fake.on_request = other
    async with client_of(fake, retry=AGAIN) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="ours")
    assert [backup.description for backup in caught.value.candidates] == ["somebody else's"]
    assert len(posts(fake)) == 1


async def test_a_caller_cancelled_during_the_looks_has_its_backup_found_all_the_same(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.visible_after = 10
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake, retry=AGAIN) as client:
        call = asyncio.create_task(client.create(1))
        await asyncio.sleep(3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert any("made backup 1" in record.getMessage() for record in caplog.records)
    assert len(posts(fake)) == 1


async def test_a_caller_cancelled_during_the_looks_gets_nothing_sent_again(fake: FakeVPS) -> None:
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake, retry=AGAIN) as client:
        call = asyncio.create_task(client.create(1))
        await asyncio.sleep(3)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(100)
    assert len(posts(fake)) == 1


async def test_an_oversized_answer_is_looked_up_and_never_sent_again(fake: FakeVPS) -> None:
    fake.inject(ServerFault(200, method="POST", when="after", times=1))
    async with client_of(fake, retry=AGAIN, max_response_bytes=1000) as client:
        assert (await client.create(1)).id == 1
    assert len(posts(fake)) == 1


async def test_a_description_that_the_api_trims_is_still_ours(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        assert (await client.create(1, description="  Nightly  ")).description == "Nightly"


async def test_a_backup_that_one_look_showed_stays_a_candidate(fake: FakeVPS) -> None:
    """Replicas answer in turn, and one of them lags behind: the first and the last look see it."""

    def hide(seen: SeenRequest) -> None:
        if seen.method == "GET" and fake.count("GET") % 2:
            fake.inject(Reply(200, b'{"count": 0, "results": []}', method="GET", times=1))

    fake.on_request = hide
    fake.add_backup(1, description="another", status="in_progress")
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake, retry=AGAIN) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="x")
    assert fake.count("GET") % 2
    assert [backup.id for backup in caught.value.candidates] == [1]
    assert len(posts(fake)) == 1


async def test_a_marker_copied_from_an_older_description_proves_nothing(fake: FakeVPS) -> None:
    old = fake.add_backup(1, description="Nightly [vb:7f3a2c91]", created_at=OLD)
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description=old["description"])
    assert caught.value.candidates == ()
    assert caught.value.marker is None


@pytest.mark.parametrize("other", [{"server": {"id": 2, "name": "b"}}, {"id": 1}])
async def test_an_answer_about_another_backup_counts_as_lost(
    fake: FakeVPS, other: dict[str, Any]
) -> None:
    async with client_of(fake) as client:
        await client.create(1)
        wrong = {**fake.backups[0], "id": 7, **other}
        body = json.dumps(wrong).encode()
        fake.inject(Reply(201, body, method="POST", when="after", times=1))
        assert (await client.create(1)).id == 2
    assert len(posts(fake)) == 2


async def test_a_redirect_of_a_create_is_no_lost_answer(fake: FakeVPS) -> None:
    fake.inject(Redirect("https://elsewhere.example/", 301, method="POST"))
    async with client_of(fake) as client:
        with pytest.raises(UnexpectedRedirectError):
            await client.create(1)
    assert fake.count() == 1


# --- What a client remembers ---------------------------------------------------------------------


async def test_an_id_once_given_is_never_given_to_another_create(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        first = await client.create(1, description="x")
        fake.inject(Drop(method="POST", times=1))
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="x")
        assert caught.value.candidates == ()
        with pytest.raises(CreateOutcomeUnknownError):
            await client.settle(caught.value)
    assert [held["id"] for held in fake.backups] == [first.id]


async def test_an_id_that_is_free_again_after_a_delete_may_be_given_again(fake: FakeVPS) -> None:
    """As databases do that give the lowest free id."""
    async with client_of(fake) as client:
        first = await client.create(1, description="x")
        await client.delete(first.id)
        fake.visible_after = 5
        fake.inject(Drop(method="POST", times=1))
        call = asyncio.create_task(client.create(1, description="x"))
        await asyncio.sleep(1)
        fake.add_backup(1, description="x", status="in_progress", id=first.id)
        assert (await call).id == first.id
        fake.inject(Drop(method="POST", times=1))
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="x")
        assert caught.value.candidates == ()


async def test_an_adopted_backup_is_not_given_to_a_later_create(fake: FakeVPS) -> None:
    fake.add_backup(1, status="in_progress")
    async with client_of(fake) as client:
        adopted = await client.create(1, if_running="adopt")
        # A replica that lags overwrites what the client remembers of the list.
        fake.inject(
            Reply(200, b'{"count": 0, "results": []}', method="GET", times=1),
            Drop(method="POST", times=2),
        )
        for _ in range(2):
            with pytest.raises(CreateOutcomeUnknownError) as caught:
                await client.create(1)
            assert adopted.id not in {backup.id for backup in caught.value.candidates}


async def test_what_an_earlier_look_showed_is_not_taken_for_a_later_creates_backup(
    fake: FakeVPS,
) -> None:
    """The first create's answer is unknown to the end; its backup is no candidate for the next."""
    fake.add_backup(1, description="somebody else's", status="in_progress")
    fake.inject(Drop(method="POST", times=2))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as first:
            await client.create(1)
        with pytest.raises(CreateOutcomeUnknownError) as second:
            await client.create(1)
    assert [backup.id for backup in first.value.candidates] == [1]
    assert second.value.candidates == ()
    assert second.value.known_ids == {1}


async def test_an_incomplete_look_is_not_remembered(fake: FakeVPS) -> None:
    """Its list moved, so that it does not tell what there was before a later create."""
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at=OLD)

    def move(seen: Any) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at=OLD)

    fake.on_request = move
    fake.inject(Drop(method="POST", times=2))
    async with client_of(fake) as client:
        for _ in range(2):
            with pytest.raises(CreateOutcomeUnknownError) as caught:
                await client.create(1)
    assert caught.value.known_ids == frozenset()


# --- Sent again where that was asked for ---------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Drop(method="POST", times=1),
        ServerFault(500, method="POST", times=1),
        ServerFault(502, method="POST", times=1),
    ],
    ids=["cut", "500", "502"],
)
async def test_it_is_sent_again_where_looks_for_so_long_show_nothing(
    fake: FakeVPS, fault: Fault
) -> None:
    fake.inject(fault)
    async with client_of(fake, retry=AGAIN) as client:
        await client.create(1)
    first, second = posts(fake)
    looks = [seen for seen in fake.requests if seen.method == "GET"]
    assert started(second, first) >= 30
    # One look comes at the end of that time, and one more looks for a late twin.
    assert any(30 <= started(look, first) <= started(second, first) for look in looks)
    assert looks[-1].at >= second.at
    assert len(fake.backups) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Latency(1000, method="POST", times=1),
        ServerFault(504, method="POST", times=1),
        ServerFault(520, method="POST", times=1),
        ServerFault(522, method="POST", times=1),
        ServerFault(524, method="POST", times=1),
        ServerFault(408, method="POST", times=1),
        NotJSON(201, method="POST", times=1),
    ],
    ids=["timeout", "504", "520", "522", "524", "408", "unreadable"],
)
async def test_what_may_still_be_carried_out_is_looked_for_as_long_and_never_sent_again(
    fake: FakeVPS, fault: Fault
) -> None:
    fake.inject(fault, *([Drop(method="POST")] if isinstance(fault, Latency) else []))
    async with client_of(fake, retry=AGAIN) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="over 30 s showed none"):
            await client.create(1)
    assert len(posts(fake)) == 1


async def test_sending_again_has_its_own_time_beyond_the_deadline(fake: FakeVPS) -> None:
    fake.inject(Drop(method="POST", times=1), Latency(5, method="POST", after=1))
    async with client_of(fake, retry=AGAIN, timeouts=Timeouts(attempt=8, deadline=8)) as client:
        assert (await client.create(1)).id == 1


async def test_a_create_is_sent_again_as_often_as_attempts_and_budget_allow(fake: FakeVPS) -> None:
    fake.inject(Drop(method="POST"))
    policy = RetryPolicy(attempts=3, create_grace=1, create_again_after=1)
    async with client_of(fake, retry=policy) as client:
        with pytest.raises(CreateOutcomeUnknownError):
            await client.create(1)
    assert len(posts(fake)) == 3
    poor = RetryPolicy(attempts=5, create_grace=1, create_again_after=1, budget=1)
    async with client_of(fake, retry=poor) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(2)
    assert len(posts(fake)) == 3 + 2
    assert isinstance(caught.value.__cause__, TransportError)
    assert caught.value.__cause__.retries_refused


async def test_a_conflict_after_an_unclear_attempt_is_our_own_backup(fake: FakeVPS) -> None:
    """The first POST is listed later than was waited for, so the second finds it in the way."""
    fake.one_at_a_time = True
    fake.visible_after = 35
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake, retry=AGAIN) as client:
        backup = await client.create(1)
    assert [seen.status for seen in posts(fake)] == [None, 409]
    assert backup.id == 1
    assert len(fake.backups) == 1


async def test_a_create_that_was_carried_out_after_all_is_logged(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.visible_after = 32
    fake.inject(Drop("after", method="POST", times=1), Latency(3, method="POST", after=1))
    async with client_of(fake, retry=AGAIN) as client:
        backup = await client.create(1)
    assert backup.id == 2
    assert any("[1]" in record.getMessage() for record in caplog.records)


async def test_looking_for_a_late_twin_ends_with_the_deadline(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Drop(method="POST", times=1))

    def hang(seen: SeenRequest) -> None:
        if seen.method == "POST" and len(posts(fake)) > 1:
            fake.inject(Latency(1000, method="GET"))

    fake.on_request = hang
    timeouts = Timeouts(attempt=10, deadline=40)
    async with client_of(fake, retry=AGAIN, timeouts=timeouts) as client:
        began = loop.time()
        assert (await client.create(1)).id == 1
        assert loop.time() - began <= 30 + 10.1
    assert len(posts(fake)) == 2


async def test_looking_for_a_late_twin_may_fail(fake: FakeVPS) -> None:
    fake.inject(Drop(method="POST", times=1))

    def fail(seen: Any) -> None:
        if seen.method == "POST" and len(posts(fake)) > 1:
            fake.inject(ServerFault(501, method="GET"))

    fake.on_request = fail
    async with client_of(fake, retry=AGAIN) as client:
        assert (await client.create(1)).id == 1


async def test_a_refusal_after_nothing_was_made_is_that_refusal(fake: FakeVPS) -> None:
    for _ in range(10):
        fake.add_backup(1, created_at=OLD)
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake, retry=AGAIN) as client:
        with pytest.raises(ManualBackupLimitError):
            await client.create(1)
    assert len(posts(fake)) == 2


# --- 503: not handled ----------------------------------------------------------------------------


async def test_a_503_is_sent_again_after_its_pause_and_a_look_that_shows_nothing(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(503, method="POST", retry_after=20, times=2))
    async with client_of(fake) as client:
        await client.create(1)
    assert [seen.method for seen in fake.requests] == ["POST", "GET", "POST", "GET", "POST"]
    first, look, second, _, third = fake.requests
    assert started(look, first) >= 20
    assert started(second, look) < 1
    assert started(third, second) >= 20
    assert len(fake.backups) == 1


async def test_a_503_for_ever_is_that_error_after_as_many_attempts_as_are_allowed(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(503, method="POST"))
    async with client_of(fake, retry=RetryPolicy(attempts=3)) as client:
        with pytest.raises(ServerError) as caught:
            await client.create(1)
    assert (caught.value.status, caught.value.attempts) == (503, 3)
    assert len(posts(fake)) == 3


async def test_a_503_that_asks_to_wait_too_long_is_not_sent_again(fake: FakeVPS) -> None:
    fake.inject(ServerFault(503, method="POST", retry_after=600))
    async with client_of(fake) as client:
        with pytest.raises(ServerError) as caught:
            await client.create(1)
    assert caught.value.retry_after == 600
    assert len(posts(fake)) == 1


async def test_a_503_of_a_server_whose_list_fails_too_is_that_error(fake: FakeVPS) -> None:
    fake.inject(ServerFault(503))
    async with client_of(fake) as client:
        with pytest.raises(ServerError):
            await client.create(1)
    assert len(posts(fake)) == 1


async def test_a_503_is_not_sent_again_where_the_list_does_not_hold_still(fake: FakeVPS) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at=OLD)

    def move(seen: Any) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at=OLD)

    fake.on_request = move
    fake.inject(ServerFault(503, method="POST", times=1))
    async with client_of(fake) as client:
        with pytest.raises(ServerError):
            await client.create(1)
    assert len(posts(fake)) == 1


async def test_a_503_beside_a_backup_that_may_be_ours_is_not_sent_again(fake: FakeVPS) -> None:
    fake.add_backup(1, description="another", status="in_progress")
    fake.inject(ServerFault(503, method="POST", times=1))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1)
    assert [backup.id for backup in caught.value.candidates] == [1]
    assert len(posts(fake)) == 1


@pytest.mark.parametrize("method", [None, "POST"], ids=["everything", "creates alone"])
async def test_an_outage_of_503s_costs_few_requests(method: str | None) -> None:
    async with (
        FakeVPS(servers=200, faults=[ServerFault(503, method=method)]) as fake,
        client_of(fake, retry=RetryPolicy()) as client,
    ):
        calls = fan_out(client.create, range(1, 201), concurrency=None)
        outcomes = [outcome async for outcome in calls]
    assert {type(outcome.error) for outcome in outcomes} == {ServerError}
    assert len(posts(fake)) <= 200 + 100
    assert fake.count() <= 600


# --- Markers -------------------------------------------------------------------------------------


async def test_a_marker_stands_at_the_end_of_the_description(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        first = await client.create(1, description="Nightly", marker=True)
        second = await client.create(1, marker="2025-01-16/web")
    text, _, tag = first.description.partition(" [vb:")
    assert text == "Nightly"
    assert len(tag.removesuffix("]")) == 8
    assert second.description == "[vb:2025-01-16/web]"


async def test_a_marker_tells_our_backup_from_somebody_elses_of_the_same_name(
    fake: FakeVPS,
) -> None:
    fake.visible_after = 5
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        call = asyncio.create_task(client.create(1, description="Nightly", marker=True))
        await asyncio.sleep(1)
        fake.add_backup(1, description="Nightly", status="in_progress")
        fake.add_backup(1, description="Nightly [vb:somebody]", status="in_progress")
        assert (await call).description.startswith("Nightly [vb:")
    assert len(posts(fake)) == 1


async def test_a_later_try_with_the_same_marker_finds_the_first_ones_backup(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        first = await client.create(1, description="Nightly", marker="16")
    async with client_of(fake) as client:
        again = await client.create(1, description="Nightly", marker="16")
        other = await client.create(1, description="Nightly", marker="17")
    assert again.id == first.id != other.id
    assert len(posts(fake)) == 2


async def test_a_repeat_with_the_same_marker_does_not_need_the_list_to_be_up_to_date(
    fake: FakeVPS,
) -> None:
    fake.visible_after = 30
    async with client_of(fake) as client:
        first = await client.create(1, marker="Job-16")
        assert (await client.create(1, marker="job-16")).id == first.id
        await client.delete(first.id)
        assert (await client.create(1, marker="Job-16")).id != first.id
    assert len(posts(fake)) == 2


async def test_a_deleted_backup_is_not_the_answer_for_long(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        first = await client.create(1, marker="16")
        fake.remove_backup(first.id)
        await asyncio.sleep(60)
        assert (await client.create(1, marker="16")).id != first.id


async def test_it_is_logged_that_a_server_does_not_keep_markers(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    made = fake.add_backup(1, description="Nigh", status="in_progress", id=7)
    fake.inject(Reply(201, json.dumps(made).encode(), method="POST", times=1))
    async with client_of(fake) as client:
        await client.create(1, description="Nightly", marker=True)
        await client.create(1, description="Nightly", marker=True)
    (line,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "backup 7 of server 1 was made without its marker" in line.getMessage()


@pytest.mark.parametrize("ended", [{"status": "failed"}, {"status": "Error"}, {"size_mb": 0}])
async def test_a_failed_backup_with_the_same_marker_is_not_the_answer(
    fake: FakeVPS, ended: dict[str, Any]
) -> None:
    fake.add_backup(1, description="Nightly [vb:16]", **ended)
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        assert (await client.create(1, description="Nightly", marker="16")).id == 2
    assert len(posts(fake)) == 1


async def test_a_backup_that_this_client_made_and_that_failed_is_not_the_answer(
    fake: FakeVPS,
) -> None:
    async with client_of(fake) as client:
        first = await client.create(1, marker="16")
        fake.finish(first.id, "failed")
        assert (await client.create(1, marker="16")).id != first.id


async def test_several_backups_with_one_marker_are_named(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        fake.add_backup(1, description="Nightly [vb:16]")
    async with client_of(fake) as client:
        assert (await client.create(1, marker="16")).id == 1
    assert any("[1, 2]" in record.getMessage() for record in caplog.records)
    assert posts(fake) == []


async def test_a_marker_of_ones_own_needs_a_list_that_holds_still(fake: FakeVPS) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at=OLD)

    def move(seen: Any) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at=OLD)

    fake.on_request = move
    async with client_of(fake) as client:
        with pytest.raises(PaginationError, match="server 1"):
            await client.create(1, marker="16")
    assert posts(fake) == []


@pytest.mark.parametrize("marker", ["a b", "", "x" * 65, 7, None])
async def test_a_marker_that_cannot_be_a_tag_is_refused(fake: FakeVPS, marker: Any) -> None:
    async with client_of(fake) as client:
        with pytest.raises(ValueError, match="marker must be"):
            await client.create(1, marker=marker)
    assert fake.requests == []


# --- Settling later ------------------------------------------------------------------------------


async def lost(
    client: BackupsClient, server_id: int = 1, **options: Any
) -> CreateOutcomeUnknownError:
    with pytest.raises(CreateOutcomeUnknownError) as caught:
        await client.create(server_id, **options)
    return caught.value


async def test_settle_finds_the_backup_a_minute_later(fake: FakeVPS) -> None:
    fake.visible_after = 60
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        error = await lost(client, description="x")
        await asyncio.sleep(60)
        settled = await client.settle(error)
        assert settled.id == 1
        assert await client.settle(error) == settled
        assert (await client.create(1, description="x")).id == 2


async def test_settle_gives_the_same_backup_each_time_without_a_clock(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake, retry=RetryPolicy(attempts=1)) as client:
        error = await lost(client)
        assert error.clock_offset is None
        assert [(await client.settle(error)).id for _ in range(3)] == [1, 1, 1]


async def test_settle_survives_a_date_that_is_nonsense(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake, retry=RetryPolicy(attempts=1)) as client:
        error = await lost(client, if_running="adopt")
        fake.date_ahead = 7_900 * 365 * 86_400
        assert (await client.settle(error)).id == 1


async def test_settle_says_if_the_list_did_not_hold_still(fake: FakeVPS) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at=OLD)

    def move(seen: Any) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at=OLD)

    fake.on_request = move
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="moved while it was read"):
            await client.settle(await lost(client))


async def test_settle_works_in_a_later_process(fake: FakeVPS) -> None:
    fake.add_backup(1, description="x", created_at=OLD)
    fake.visible_after = 60
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        stored = pickle.dumps(await lost(client, description="x"))
    await asyncio.sleep(60)
    async with client_of(fake) as client:
        assert (await client.settle(pickle.loads(stored))).id == 2


async def test_settle_says_what_is_known_now_and_never_that_nothing_was_made(
    fake: FakeVPS,
) -> None:
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake) as client:
        error = await lost(client, description="x")
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.settle(error)
        assert caught.value.candidates == ()
        assert caught.value.sent_at == error.sent_at
        fake.add_backup(1, description="another", status="in_progress")
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.settle(error)
        assert [backup.description for backup in caught.value.candidates] == ["another"]
        fake.inject(ServerFault(501, method="GET"))
        with pytest.raises(CreateOutcomeUnknownError, match="failed") as caught:
            await client.settle(error)
        assert isinstance(caught.value.__cause__, ServerError)


async def test_the_next_nights_backup_is_not_taken_for_the_lost_one(fake: FakeVPS) -> None:
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake) as client:
        error = await lost(client, description="x", if_running="adopt")
    assert error.read_before
    fake.advance(86_400)
    async with client_of(fake) as client:
        await client.create(1, description="x")
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.settle(error)
    assert [backup.id for backup in caught.value.candidates] == [1]


async def test_the_error_tells_all_that_is_needed_to_look_again(fake: FakeVPS) -> None:
    fake.add_backup(1, created_at=OLD)
    fake.visible_after = 60
    fake.date_ahead = 120
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        before = datetime.now(UTC)
        error = await lost(client, description="x", marker="16")
    assert error.server_id == 1
    assert error.description == "x [vb:16]"
    assert error.marker == "16"
    assert error.known_ids == {1}
    assert error.read_before
    (sent_at,) = error.sent_at
    assert abs(sent_at - before) < timedelta(minutes=1)
    assert error.clock_offset is not None
    ahead = sent_at + timedelta(seconds=error.clock_offset) - fake.now
    assert ahead.total_seconds() == pytest.approx(120 - 15, abs=2)
    assert error.clock_age == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("thing", [None, ValueError("x"), CreateOutcomeUnknownError()], ids=repr)
async def test_settle_takes_the_error_of_a_create_only(fake: FakeVPS, thing: Any) -> None:
    async with client_of(fake) as client:
        with pytest.raises(ValueError, match="settle needs"):
            await client.settle(thing)
    assert fake.requests == []


# --- An old error of a gateway that never comes to an end ----------------------------------------


@pytest.mark.parametrize("late", [10, 30], ids=["within the grace", "after it"])
async def test_twenty_creates_behind_a_gateway_with_a_short_timeout_make_twenty_backups(
    late: float,
) -> None:
    """As nginx with `proxy_read_timeout 2s` before a server that takes longer."""
    fault = [
        ServerFault(504, html=True, method="POST", when="later", late=late),
        Latency(2, method="POST"),
    ]
    async with (
        FakeVPS(servers=20, faults=fault, backup_seconds=1e6) as fake,
        client_of(fake) as client,
    ):
        outcomes = [one async for one in fan_out(client.create, range(1, 21))]
        settled: list[Backup] = []
        await asyncio.sleep(60)
        for outcome in outcomes:
            if isinstance(outcome.error, CreateOutcomeUnknownError):
                settled.append(await client.settle(outcome.error))
            else:
                settled.append(outcome.unwrap())
        assert {backup.server.id for backup in settled} == set(range(1, 21))
        assert len(fake.backups) == 20
