"""`ensure`: a recent backup that is there, or else a new one; never two for one need."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from helpers_creating import client_of, posts
from helpers_events import Heard
from helpers_waiting import timed

from vpsbackups_async import (
    Backup,
    BackupInProgressError,
    BackupsClient,
    BackupStatus,
    BackupType,
    BadRequestError,
    ConflictError,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    ManualBackupLimitError,
    NotAttemptedError,
    PaginationError,
    RetryPolicy,
    ServerError,
    ServerRef,
    Timeouts,
)
from vpsbackups_async._creating.asked import AskedDescriptions
from vpsbackups_async._creating.ensuring import Need
from vpsbackups_async._creating.known import KnownBackups
from vpsbackups_async.events import CreateEnded
from vpsbackups_async.testing import Drop, FakeVPS, Fault, Latency, Reply, SeenRequest, ServerFault

pytestmark = [pytest.mark.fake_vps(backups=0, backup_seconds=600), pytest.mark.virtual_time]

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NIGHTLY = 20 * HOUR
PERIOD = NIGHTLY.total_seconds()


def hours_ago(fake: FakeVPS, hours: float) -> datetime:
    return fake.now - hours * HOUR


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [seen.getMessage() for seen in caplog.records if seen.levelno == logging.WARNING]


async def nightly(client: BackupsClient, server_id: int = 1, **options: Any) -> Backup:
    return await client.ensure(
        server_id, **{"within": NIGHTLY, "description": "Nightly", **options}
    )


@pytest.mark.parametrize(
    ("status", "hours", "is_there"),
    [
        ("completed", 7, True),
        ("completed", 9, False),
        ("in_progress", 7, True),
        ("in_progress", 9, False),
        ("failed", 7, False),
    ],
)
async def test_a_backup_that_is_newer_than_a_moment_is_taken_whether_completed_or_running(
    status: str, hours: float, is_there: bool, fake: FakeVPS
) -> None:
    held = fake.add_backup(
        1, status=status, description="Nightly", created_at=hours_ago(fake, hours)
    )
    async with client_of(fake) as client:
        backup = await nightly(client, within=datetime.now(UTC) - 8 * HOUR)
    assert (backup.id == held["id"]) == is_there


async def test_a_running_backup_older_than_a_moment_counts_within_its_own_time(
    fake: FakeVPS,
) -> None:
    fake.add_backup(1, status="in_progress", description="Nightly", created_at=hours_ago(fake, 5))
    async with client_of(fake) as client:
        await nightly(client, within=datetime.now(UTC) - HOUR)
    assert posts(fake) == []


# --- Which backups count -------------------------------------------------------------------------

NOW = datetime(2025, 1, 16, 12, tzinfo=UTC)
NEED = Need(1, "Nightly [job:web]", NIGHTLY, 6 * HOUR)
MARKED = f"Nightly [vb:{NEED.marker(NOW)}]"
BEFORE = f"nightly [vb:{NEED.marker(NOW - 20 * HOUR)}]"
DONE, RUNNING = BackupStatus.COMPLETED, BackupStatus.IN_PROGRESS
BACKUP = Backup(
    7, ServerRef(1, "one"), BackupType.MANUAL, DONE, 1, NOW - 19 * HOUR, None, "Nightly"
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"created_at": NOW - 20 * HOUR}, False),
        ({"created_at": NOW - 20 * HOUR + MINUTE}, True),
        ({"created_at": NOW + HOUR}, True),
        ({"created_at": NOW + 20 * HOUR}, False),
        ({"size_mb": 0}, False),
        ({"size_mb": None}, True),
        ({"backup_type": BackupType.AUTOMATIC}, False),
        ({"server": ServerRef(2, "two")}, False),
        ({"status": BackupStatus("failed"), "created_at": NOW}, False),
        # Running, or perhaps so.
        ({"status": RUNNING}, False),
        ({"status": RUNNING, "created_at": NOW - 6 * HOUR}, False),
        ({"status": RUNNING, "created_at": NOW + 6 * HOUR}, False),
        ({"status": RUNNING, "created_at": NOW - 6 * HOUR + MINUTE}, True),
        ({"status": BackupStatus("queued"), "created_at": NOW - HOUR}, True),
        ({"status": BackupStatus("queued")}, False),
        # Descriptions, tags apart.
        ({"description": "Weekly"}, False),
        ({"description": ""}, False),
        ({"description": " Nightly [job:db] [vb:12ab] "}, True),
        # The marker of this period, whatever the server made of text and time.
        ({"description": f"nightly [vb:{NEED.marker(NOW).upper()}]"}, True),
        ({"description": MARKED, "created_at": NOW - 30 * HOUR}, True),
        # That of the period before, by its age.
        ({"description": BEFORE}, True),
        ({"description": BEFORE, "created_at": NOW - 20 * HOUR}, False),
        ({"description": f"nightly [vb:{NEED.marker(NOW - 40 * HOUR)}]"}, False),
        # A server that cuts descriptions, within the tags.
        ({"description": "Nightly [v"}, True),
        ({"description": "Nightly [job:web] [vb:23"}, True),
        ({"description": "Nightly [vb:23", "created_at": NOW - 20 * HOUR}, False),
        ({"description": "Weekly [vb:23"}, False),
        ({"description": "Night"}, False),
        ({"description": "Nightly [draft"}, False),
        ({"description": MARKED, "status": RUNNING, "created_at": NOW - 7 * HOUR}, False),
        ({"description": MARKED, "status": BackupStatus("failed"), "created_at": NOW}, False),
    ],
)
def test_a_backup_counts_by_its_description_state_and_age(
    changes: dict[str, Any], expected: bool
) -> None:
    assert NEED.fits(evolve(BACKUP, **changes), NOW) is expected


def test_the_newest_counts_and_of_twins_the_one_with_the_lowest_id() -> None:
    older = evolve(BACKUP, id=9, created_at=NOW - 19.5 * HOUR)
    late = evolve(BACKUP, id=8, description=MARKED, created_at=NOW - HOUR)
    twin = evolve(BACKUP, id=5, description=MARKED, created_at=NOW - HOUR - MINUTE)
    failed = evolve(twin, id=3, status=BackupStatus("failed"))
    assert NEED.newest([], NOW) is None
    assert NEED.newest([failed], NOW) is None
    assert NEED.newest([BACKUP, older], NOW) is BACKUP
    assert NEED.newest([BACKUP, late, older], NOW) is late
    assert NEED.newest([BACKUP, late, failed, twin, older], NOW) is twin


def test_a_marker_is_that_of_its_period_server_and_description_without_tags() -> None:
    begin = datetime.fromtimestamp(NOW.timestamp() // PERIOD * PERIOD, UTC)
    end = begin + NIGHTLY
    marker = NEED.marker(begin)
    assert {NEED.marker(begin + n * HOUR) for n in range(20)} == {marker}
    assert NEED._replace(description="Nightly").marker(begin) == marker
    others = [
        NEED.marker(begin - MINUTE),
        NEED.marker(end),
        NEED._replace(server_id=2).marker(begin),
        NEED._replace(description="nightly").marker(begin),
        NEED._replace(within=24 * HOUR).marker(begin),
    ]
    assert len({marker, *others}) == 6
    # So that another process, and a later version, finds it.
    assert NEED.marker(NOW) == "23d12a93f51d1e60"


# --- One that is there, or a new one -------------------------------------------------------------


async def test_where_there_is_none_one_is_made_and_given_again_later(fake: FakeVPS) -> None:
    async with client_of(fake) as client, client_of(fake) as other:
        made = await nightly(client)
        assert made.description.startswith("Nightly [vb:")
        assert fake.count() == 3  # a look, the create, a look for twins
        for again in (client, other):
            assert (await nightly(again)).id == made.id
        await asyncio.sleep(601)
        found = await nightly(other)
        assert (found.id, found.is_completed) == (made.id, True)
        assert (await nightly(client, 2)).id != made.id
        assert (await nightly(client, description="Weekly")).id != made.id
        assert (await nightly(client, description=None)).id != made.id
    assert len(posts(fake)) == 4


@pytest.mark.parametrize("ahead", [0, -3600, 3600])
async def test_the_age_is_by_the_clock_of_the_server(fake: FakeVPS, ahead: float) -> None:
    """This machine's clock is over a year ahead of it."""
    fake.date_ahead = ahead
    age = 20 - ahead / 3600
    fake.add_backup(1, description="Nightly", created_at=hours_ago(fake, age + 0.01))
    young = fake.add_backup(2, description="Nightly", created_at=hours_ago(fake, age - 0.01))
    async with client_of(fake) as client:
        assert (await nightly(client)).id == 3
        assert (await nightly(client, 2)).id == young["id"]
    assert len(posts(fake)) == 1


@pytest.mark.parametrize("date", ["", "nonsense", "Fri, 01 Jan 9999 00:00:00 GMT"])
async def test_where_the_server_tells_no_time_it_is_that_of_this_machine(
    fake: FakeVPS, date: str
) -> None:
    fake.add_backup(1, description="Nightly", created_at=datetime.now(UTC) - 19 * HOUR)
    fake.add_backup(2, description="Nightly", created_at=datetime.now(UTC) - 21 * HOUR)
    async with client_of(fake) as client:
        for server_id in (1, 2):
            held = [one for one in fake.backups if one["server"]["id"] == server_id]
            page = {"count": 1, "next": None, "previous": None, "results": held}
            fake.inject(
                Reply(200, json.dumps(page).encode(), {"Date": date}, method="GET", times=1)
            )
        assert (await nightly(client)).id == 1
        assert (await nightly(client, 2)).id == 3


async def test_one_that_is_stuck_does_not_count_and_one_that_runs_does(fake: FakeVPS) -> None:
    for server_id, hours in ((1, 5.9), (2, 6.1)):
        fake.add_backup(
            server_id,
            description="Nightly",
            status="in_progress",
            created_at=hours_ago(fake, hours),
        )
    async with client_of(fake) as client:
        assert (await nightly(client)).id == 1
        assert (await nightly(client, running_within=5 * HOUR)).id == 3
        assert (await nightly(client, 2)).id == 4


async def test_one_of_this_period_that_is_stuck_is_replaced(fake: FakeVPS) -> None:
    """Its marker is the same, so that only its age tells."""
    fake.backup_seconds = 1e6
    fake.advance(PERIOD - fake.now.timestamp() % PERIOD)
    async with client_of(fake) as client:
        stuck = await nightly(client)
        fake.advance(7 * 3600)
        made = await nightly(client)
        assert made.id != stuck.id
        assert made.description == stuck.description
    async with client_of(fake) as later:
        assert (await nightly(later)).id == made.id


@pytest.mark.parametrize(("within", "made"), [(20 * HOUR, 7), (24 * HOUR, 4)])
async def test_twenty_hours_serve_nightly_runs_and_twenty_four_skip_every_second(
    fake: FakeVPS, within: timedelta, made: int
) -> None:
    async with client_of(fake) as client:
        for night in range(7):
            await nightly(client, within=within)
            fake.advance(86_400 - (60 if night % 2 == 0 else -60))
    assert len(posts(fake)) == made


async def test_a_list_that_cannot_be_read_completely_is_an_error_and_nothing_is_sent(
    fake: FakeVPS,
) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, description="Nightly")

    def move(seen: SeenRequest) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1)

    fake.on_request = move
    async with client_of(fake) as client:
        with pytest.raises(PaginationError, match="server 1"):
            await nightly(client)
    assert posts(fake) == []


async def test_a_list_that_fails_is_an_error_and_nothing_is_sent(fake: FakeVPS) -> None:
    fake.inject(ServerFault(503, method="GET"))
    async with client_of(fake) as client:
        with pytest.raises(ServerError):
            await nightly(client)
    assert posts(fake) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"within": 20}, "within must be a timedelta"),
        ({"within": timedelta(0)}, "within must be a timedelta"),
        ({"within": timedelta.max}, "within must be a timedelta"),
        ({"running_within": -HOUR}, "running_within must be a timedelta"),
        ({"running_within": None}, "running_within must be a timedelta"),
        ({"server_id": 0}, "server_id must be"),
        ({"description": 7}, "description must be"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    fake: FakeVPS, options: dict[str, Any], words: str
) -> None:
    async with client_of(fake) as client:
        with pytest.raises(ValueError, match=words):
            await nightly(client, **options)
    assert fake.requests == []


# --- Lists that lag ------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds_to_the_end", [3600, 30])
async def test_a_client_knows_what_it_made_before_a_list_shows_it(
    fake: FakeVPS, seconds_to_the_end: int
) -> None:
    """Also if the next period has begun meanwhile."""
    fake.visible_after = 55
    fake.advance(PERIOD - fake.now.timestamp() % PERIOD - seconds_to_the_end)
    async with client_of(fake) as client:
        made = await nightly(client)
        await asyncio.sleep(31)
        assert (await nightly(client)).id == made.id
    assert len(posts(fake)) == 1


async def test_calls_at_once_of_one_client_make_one(fake: FakeVPS) -> None:
    fake.inject(Latency(1))
    async with client_of(fake) as client:
        hasty = client.with_options(timeouts=Timeouts(attempt=10))
        made = await asyncio.gather(*(nightly(one) for one in (client, hasty) * 3))
    assert {backup.id for backup in made} == {1}
    assert len(posts(fake)) == 1


# --- Lost answers --------------------------------------------------------------------------------

LOST: list[Fault] = [
    Drop("after", method="POST", times=1),
    ServerFault(502, method="POST", when="after", times=1),
    ServerFault(504, method="POST", when="later", late=5, times=1),
    Latency(1000, method="POST", when="after", times=1),
]


async def listed(fake: FakeVPS, server_id: int) -> None:
    """Return once the list of the server shows a backup."""
    async with client_of(fake) as client:
        while not await client.list(server_id=server_id).count():  # noqa: ASYNC110
            await asyncio.sleep(0.25)


@pytest.mark.fake_vps(servers=100, backups=0, visible_after=2)
async def test_a_second_process_makes_no_other_a_hundred_times_with_lost_answers(
    fake: FakeVPS,
) -> None:
    for server_id in range(1, 101):
        fake.clear_faults()
        fake.inject(LOST[server_id % len(LOST)])
        fake.advance(3600 * 7)
        async with client_of(fake) as first, client_of(fake) as second:
            call = asyncio.create_task(nightly(first, server_id))
            await listed(fake, server_id)
            other = await nightly(second, server_id)
            assert (await call).id == other.id
    servers = [held["server"]["id"] for held in fake.backups]
    assert sorted(servers) == list(range(1, 101))
    assert len(posts(fake)) == 100


async def test_a_later_try_finds_what_became_of_one_that_did_not_know(fake: FakeVPS) -> None:
    fake.inject(ServerFault(504, method="POST", when="later", late=30, times=1))
    async with client_of(fake) as first, client_of(fake) as later:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await nightly(first)
        await asyncio.sleep(30)
        assert (await nightly(later)).id == 1
        assert (await first.settle(caught.value)).id == 1
        assert (await nightly(first)).id == 1
    assert len(posts(fake)) == 1


async def test_where_it_is_sent_again_one_look_for_twins_is_enough(fake: FakeVPS) -> None:
    fake.inject(Drop("before", method="POST", times=1))
    retry = RetryPolicy(backoff=ConstantBackoff(0.1), create_again_after=30)
    async with client_of(fake, retry=retry) as client:
        assert (await nightly(client)).id == 1
    assert [seen.method for seen in fake.requests[-3:]] == ["GET", "POST", "GET"]
    assert len(posts(fake)) == 2


# --- Twins ---------------------------------------------------------------------------------------


async def race(fake: FakeVPS, apart: float = 0.0, *, later: float = 0.0) -> list[Any]:
    """What two processes are given, or raise, that create in the same moment.

    The second one reads the list `apart` seconds after the first one, and its backup is made
    `later` seconds after that of the first one.
    """
    delays = iter((3 + apart, 3 + later))
    fake.inject(Latency(lambda _: next(delays), method="POST"))
    async with client_of(fake) as first, client_of(fake) as second:

        async def follow() -> Backup:
            await asyncio.sleep(apart)
            return await nightly(second, description="Nightly [job:other]")

        return await asyncio.gather(nightly(first), follow(), return_exceptions=True)


@pytest.mark.parametrize("new_ids", ["up", "down", "blocks"])
@pytest.mark.parametrize("lag", [0, 10])
async def test_two_that_create_in_the_same_moment_both_give_the_same_one(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture, new_ids: Any, lag: float
) -> None:
    fake.new_ids = new_ids
    fake.visible_after = lag
    given = await race(fake)
    ids = sorted(held["id"] for held in fake.backups)
    assert len(ids) == 2
    assert [backup.id for backup in given] == [ids[0]] * 2
    said = warnings_in(caplog)
    assert len(said) == 2
    assert all(str(ids) in line and "server 1" in line for line in said)
    async with client_of(fake) as later:
        assert (await nightly(later)).id == ids[0]


@pytest.mark.parametrize("new_ids", ["up", "down"])
async def test_two_give_the_one_that_was_made_first_whose_process_saw_no_other_one_yet(
    fake: FakeVPS, new_ids: Any
) -> None:
    fake.new_ids = new_ids
    given = await race(fake, apart=1, later=1)
    first = min(fake.backups, key=lambda held: held["created_at"])
    assert len(fake.backups) == 2
    assert [backup.id for backup in given] == [first["id"]] * 2
    async with client_of(fake) as later:
        assert (await nightly(later)).id == first["id"]


async def test_two_that_create_as_one_period_ends_and_the_next_begins_give_the_same(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.advance(PERIOD - fake.now.timestamp() % PERIOD - 0.5)
    given = await race(fake, apart=1)
    markers = {held["description"].rpartition("vb:")[2] for held in fake.backups}
    assert len(markers) == 2
    assert [backup.id for backup in given] == [1, 1]
    assert len(warnings_in(caplog)) == 2


@pytest.mark.parametrize("times", [1, 2])
async def test_two_that_create_in_the_same_moment_give_the_same_though_answers_are_lost(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture, times: int
) -> None:
    fake.inject(Drop("after", method="POST", times=times))
    given = await race(fake)
    assert [backup.id for backup in given] == [1, 1]
    assert len(fake.backups) == 2
    assert len(warnings_in(caplog)) == 2


async def test_a_twin_that_failed_is_not_the_one_that_is_given(fake: FakeVPS) -> None:
    fake.fails = lambda backup: backup["id"] == 1
    fake.backup_seconds = lambda backup: 0 if backup["id"] == 1 else 600
    given = await race(fake, apart=1)
    assert [backup.id for backup in given] == [2, 2]


async def test_backups_from_before_are_no_twins(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was stuck is completed just then."""
    fake.add_backup(1, description="Nightly", status="in_progress", created_at=hours_ago(fake, 7))

    def end(seen: SeenRequest) -> None:
        if seen.method == "POST":
            fake.finish(1)

    fake.on_request = end
    async with client_of(fake) as client:
        assert (await nightly(client)).id == 2
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [(ServerFault(503, method="GET"), 30), (ServerFault(404, method="GET"), 15)],
)
async def test_a_backup_is_given_though_nobody_can_look_for_twins(
    fake: FakeVPS, fault: Fault, seconds: float
) -> None:
    loop = asyncio.get_running_loop()

    def fail(seen: SeenRequest) -> None:
        if seen.method == "POST":
            fake.inject(fault)

    fake.on_request = fail
    async with client_of(fake) as client:
        assert (await nightly(client)).id == 1
        assert loop.time() <= seconds + 1


BUSY = b'{"detail": "A backup is already in progress."}'
REFUSED = b'{"detail": "This server is suspended."}'


@pytest.mark.parametrize("lag", [0, 10, 600])
async def test_one_that_is_refused_because_another_process_was_first_gives_its_backup(
    fake: FakeVPS, lag: float
) -> None:
    """A list that does not show that backup in 15 seconds leaves it at the refusal."""
    fake.one_at_a_time = True
    fake.visible_after = lag
    given = await race(fake, apart=1)
    told = {one.id if isinstance(one, Backup) else type(one) for one in given}
    assert told == ({1, ConflictError} if lag == 600 else {1})
    assert len(fake.backups) == 1


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [
        (Reply(400, BUSY, method="POST"), 15),
        (Reply(400, REFUSED, method="POST"), 0),
        (Reply(409, REFUSED, method="POST"), 15),
    ],
    ids=["400, busy", "400, otherwise", "409"],
)
async def test_only_a_refusal_that_says_busy_is_looked_into_for_longer(
    fake: FakeVPS, refusal: Fault, seconds: float
) -> None:
    fake.inject(refusal)
    async with client_of(fake) as client:
        given, took = await timed(nightly(client))
    assert type(given) in {BadRequestError, ConflictError}
    assert took == pytest.approx(seconds, abs=1)
    assert len(posts(fake)) == 1


async def test_one_that_finds_the_last_place_taken_gives_what_took_it(fake: FakeVPS) -> None:
    for _ in range(9):
        fake.add_backup(1)
    given = await race(fake, apart=1)
    assert [backup.id for backup in given] == [10, 10]
    assert len(fake.backups) == 10


@pytest.mark.parametrize("running", [False, True])
async def test_what_others_hold_is_still_refused(fake: FakeVPS, running: bool) -> None:
    fake.one_at_a_time = True
    for _ in range(1 if running else 10):
        fake.add_backup(1, status="in_progress" if running else "completed")
    async with client_of(fake) as client:
        refusal, seconds = await timed(nightly(client))
    assert type(refusal) is (BackupInProgressError if running else ManualBackupLimitError)
    assert seconds < 1
    assert len(posts(fake)) == 1


# --- Cancelled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 4])
async def test_one_whose_caller_is_cancelled_ends_in_the_background_and_is_logged(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture, after: float
) -> None:
    """While the create is under way, and while twins are looked for."""
    heard = Heard()
    fake.inject(Latency(2))
    client = client_of(fake, on_event=heard)
    call = asyncio.create_task(nightly(client))
    await asyncio.sleep(2 + after)
    assert len(posts(fake)) == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await client.close()
    (event,) = heard.of(CreateEnded)
    assert event.caller_cancelled
    assert event.backup is not None
    assert any("made backup 1" in line for line in warnings_in(caplog))


async def test_one_whose_caller_is_cancelled_while_it_reads_sends_nothing(fake: FakeVPS) -> None:
    fake.inject(Latency(2))
    async with client_of(fake) as client:
        call = asyncio.create_task(nightly(client))
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(10)
    assert posts(fake) == []


# --- A server that changes descriptions ----------------------------------------------------------

LONG = "Nightly backup of the database of web-10"


@pytest.mark.parametrize("length", range(7, 32))
async def test_where_descriptions_are_cut_after_the_text_any_later_run_finds_the_backup(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    """At each length, from the end of the text to the end of the tag."""
    fake.stored_description = lambda text: text[:length]
    for _ in range(3):
        async with client_of(fake) as client:
            assert (await nightly(client)).id == 1
            assert (await nightly(client)).id == 1
    assert len(posts(fake)) == 1
    said = warnings_in(caplog)
    assert len(said) == (length < len(MARKED))
    assert all("without its marker" in line for line in said)


@pytest.mark.parametrize(
    "change",
    [lambda text: text[:20], lambda _: "", lambda text: f"web: {text}"],
    ids=["cut within the text", "dropped", "prefixed"],
)
async def test_a_client_knows_what_it_made_whatever_the_server_makes_of_the_description(
    fake: FakeVPS, change: Callable[[str], str]
) -> None:
    fake.stored_description = change
    async with client_of(fake) as client:
        made = await nightly(client, description=LONG)
        await asyncio.sleep(7 * 3600)  # the list lags no longer, and the backup is completed
        again = await nightly(client, description=LONG)
        assert (again.id, again.description) == (made.id, made.description)
        assert made.description != LONG
        assert (await nightly(client, description=LONG[:-1])).id == 2
        assert (await nightly(client, description=LONG)).id == 1
    assert len(posts(fake)) == 2


async def test_where_only_the_case_of_descriptions_changes_any_run_in_the_next_period_finds_it(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.stored_description = str.lower
    fake.advance(PERIOD - fake.now.timestamp() % PERIOD - 30)
    for _ in range(2):
        async with client_of(fake) as client:
            assert (await nightly(client)).id == 1
        await asyncio.sleep(60)
    assert warnings_in(caplog) == []


async def test_a_create_that_was_answered_with_more_than_is_stored_is_known_as_well(
    fake: FakeVPS,
) -> None:
    def make(seen: SeenRequest) -> None:
        if seen.method == "POST":
            made = fake.add_backup(1, description=LONG[:20], status="in_progress")
            reply = json.dumps({**made, "description": LONG}).encode()
            fake.inject(Reply(201, reply, method="POST", times=1))

    fake.on_request = make
    async with client_of(fake) as client:
        for _ in range(2):
            assert (await nightly(client, description=LONG)).id == 1
            await asyncio.sleep(3600)
        other = fake.add_backup(2, description=LONG[:20])
        assert (await nightly(client, 2, description=LONG)).id == other["id"]


async def test_a_backup_of_another_process_counts_once_it_is_known_where_descriptions_are_cut(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.stored_description = lambda text: text[:20]
    async with client_of(fake) as first, client_of(fake) as second:
        assert (await nightly(first, description=LONG)).id == 1
        await second.create(2, description="Something else that is long")
        caplog.clear()
        assert (await nightly(second, description=LONG)).id == 1
    (warning,) = warnings_in(caplog)
    assert "backup 1 of server 1 is taken" in warning
    assert "after 20 characters" in warning


async def test_where_it_is_not_known_another_process_makes_a_second_one_and_both_say_why(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.stored_description = lambda text: text[:20]
    for number in (1, 2):
        async with client_of(fake) as client:
            assert (await nightly(client, description=LONG)).id == number
    said = warnings_in(caplog)
    assert len(said) == 2
    assert all("with another description than was asked for" in line for line in said)


async def test_of_two_that_are_made_in_the_same_moment_a_cut_one_is_no_twin(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be of another description that begins in the same way."""
    fake.stored_description = lambda text: text[:20]
    fake.inject(Latency(3, method="POST"))
    async with client_of(fake) as first, client_of(fake) as second:
        for client in (first, second):
            await client.create(2, description="Something else that is long")
        made = await asyncio.gather(
            nightly(first, description=LONG), nightly(second, description=LONG[:-1])
        )
    assert [backup.id for backup in made] == [3, 4]
    assert not any("several backups" in line for line in warnings_in(caplog))


async def test_a_description_as_long_as_the_limit_is_taken_without_a_warning(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.stored_description = lambda text: text[:7]
    fake.add_backup(1, description="Nightly")
    async with client_of(fake) as client:
        await client.create(2, description="Something")
        assert (await nightly(client)).id == 1
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    "other",
    [LONG[:14], LONG[:19], "Nightly backup of tb", LONG[:21], LONG[:20] + " [job:db]", ""],
)
async def test_where_descriptions_are_cut_a_shorter_or_another_one_is_somebody_elses(
    fake: FakeVPS, other: str
) -> None:
    fake.stored_description = lambda text: text[:20]
    fake.add_backup(1, description=other)
    async with client_of(fake) as client:
        await client.create(2, description="Something else that is long")
        assert (await nightly(client, description=LONG)).id == 3


@pytest.mark.parametrize(
    ("held", "cut_at"),
    [
        (LONG[:20], 20),
        (LONG[:39], 39),
        (LONG, None),
        ("", None),
        (LONG[:7], None),  # before a space, which may have been trimmed
        (LONG[:8], 8),
        (LONG[:37], None),  # before a hyphen
        (LONG[1:20], None),
    ],
)
def test_a_length_is_learned_only_where_a_description_ends_within_a_word(
    held: str, cut_at: int | None
) -> None:
    asked = AskedDescriptions()
    asked.note(evolve(BACKUP, description=held), LONG)
    assert asked.cut_at == cut_at


def test_a_length_that_a_description_exceeds_is_none() -> None:
    asked = AskedDescriptions()
    asked.note(evolve(BACKUP, description="caf"), "café")  # an encoding may be what ends it
    assert asked.cut_at is None
    asked.note(evolve(BACKUP, description=LONG[:20]), LONG)
    asked.see([evolve(BACKUP, id=8, description="x" * 20)])
    assert asked.cut_at == 20
    asked.see([evolve(BACKUP, id=8, description="x" * 21)])
    assert asked.cut_at is None


def test_what_was_asked_for_is_kept_of_the_ten_thousand_last_backups() -> None:
    asked = AskedDescriptions()
    for number in range(10_001):
        asked.note(evolve(BACKUP, id=number), LONG)
    held = [asked.as_asked(evolve(BACKUP, id=number)).description for number in (0, 1, 10_000)]
    assert held == [BACKUP.description, LONG, LONG]


@pytest.mark.parametrize(
    "changes",
    [{"id": 8}, {"server": ServerRef(2, "two")}, {"created_at": NOW - 18 * HOUR}, None],
    ids=["id", "server", "time", "deleted"],
)
def test_what_was_asked_for_is_not_that_of_another_backup(changes: dict[str, Any] | None) -> None:
    known = KnownBackups()
    asked = known.asked
    asked.note(BACKUP, LONG)
    assert asked.as_asked(evolve(BACKUP, description="x")).description == LONG
    if changes is None:
        known.forget(BACKUP.id)
    assert asked.as_asked(evolve(BACKUP, **(changes or {}))).description == BACKUP.description


# --- A marker of ones own ------------------------------------------------------------------------


async def test_a_marker_that_was_not_asked_for_is_not_missed(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(fake) as client:
        await client.create(1, description="Nightly [vb:16]")
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("length", [7, 12])
async def test_where_a_marker_is_cut_a_client_gives_its_own_backup_again(
    fake: FakeVPS, length: int
) -> None:
    fake.stored_description = lambda text: text[:length]
    async with client_of(fake) as client:
        options: dict[str, Any] = {"description": "Nightly", "marker": "2026-11-25A"}
        for _ in range(3):
            assert (await client.create(1, **options)).id == 1
            await asyncio.sleep(3600)
        assert (await client.create(1, **{**options, "marker": "2026-11-25B"})).id == 2


async def test_two_creates_with_the_same_marker_and_a_lost_answer_give_the_first(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(Latency(3, method="POST"))
    fake.inject(Drop("after", method="POST", times=2))
    async with client_of(fake) as first, client_of(fake) as second:
        given = await asyncio.gather(
            *(client.create(1, marker="2026-11-25") for client in (first, second))
        )
    assert [backup.id for backup in given] == [1, 1]
    assert any("[1, 2]" in line for line in warnings_in(caplog))


# --- A fleet -------------------------------------------------------------------------------------


@pytest.mark.fake_vps(servers=20, backups=0, backup_seconds=600)
async def test_a_fleet_gives_each_server_its_backup(fake: FakeVPS) -> None:
    for server_id in range(1, 6):
        fake.add_backup(server_id, description="Nightly", created_at=hours_ago(fake, 1))
    fake.inject(Latency(0.1))
    progress: list[int] = []
    async with client_of(fake) as client:
        outcomes = [
            outcome
            async for outcome in client.fleet([*range(1, 21), 99], concurrency=4).ensure(
                within=NIGHTLY,
                description="Nightly",
                on_progress=lambda now: progress.append(now.done),
            )
        ]
        assert fake.peak == 4
    given = {outcome.key: outcome.value.id for outcome in outcomes if outcome.value is not None}
    assert {given[server_id] for server_id in range(1, 6)} == set(range(1, 6))
    assert [outcome.key for outcome in outcomes if not outcome.ok] == [99]
    assert len(given) == 20
    assert len(posts(fake)) == 16
    assert progress[-1] == 21


async def test_a_fleet_waits_for_what_runs_and_asks_nothing_of_what_is_completed(
    fake: FakeVPS,
) -> None:
    done = fake.add_backup(1, description="Nightly")
    async with client_of(fake) as client:
        fleet = client.fleet([1, 2])
        ended = [
            outcome.unwrap()
            async for outcome in fleet.ensure(within=HOUR, description="Nightly", wait=True)
        ]
        assert sorted(backup.server.id for backup in ended) == [1, 2]
        assert all(backup.is_completed for backup in ended)
        assert ended[0].id == done["id"]  # it comes first, as there is nothing to wait for
    assert fake.count("POST") == 1


async def test_a_fleet_stops_at_a_refused_token_or_the_first_failure(fake: FakeVPS) -> None:
    fake.inject(ServerFault(501, query={"server_id": 1}))
    retry = RetryPolicy(attempts=1, backoff=ConstantBackoff(0))
    async with client_of(fake, retry=retry) as client:
        fleet = client.fleet([1, 2, 3], concurrency=1)
        stopped = [one async for one in fleet.ensure(within=HOUR, on_error="stop")]
        fake.clear_faults()
        fake.revoke()
        refused = [one async for one in fleet.ensure(within=HOUR)]
    for outcomes in (stopped, refused):
        kinds = [type(outcome.error) for outcome in outcomes]
        assert kinds.count(NotAttemptedError) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"within": 20},
        {"within": datetime(2025, 1, 16)},  # noqa: DTZ001  # it has no time zone
        {"within": datetime(2999, 1, 16, tzinfo=UTC)},
        {"within": datetime(2025, 1, 16, tzinfo=UTC), "running_within": 6},
        {"within": HOUR, "running_within": 6},
        {"within": HOUR, "description": 7},
        {"within": HOUR, "on_error": "ignore"},
        {"within": HOUR, "timeout": "soon"},
    ],
)
async def test_a_fleet_refuses_bad_arguments_at_once(fake: FakeVPS, options: Any) -> None:
    async with client_of(fake) as client:
        with pytest.raises(ValueError, match="must be"):
            client.fleet([1]).ensure(**options)
    assert fake.requests == []
