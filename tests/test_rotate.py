"""`rotate`: a new backup that is verified, and only then deletions; room for it if needed."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from helpers_creating import client_of, posts
from helpers_pruning import DAY, JOB, POLICY, add, add_nights, deletes, held
from helpers_retention import NOW, backup

from vpsbackups_async import (
    Backup,
    BackupFailedError,
    BackupInProgressError,
    BackupsClient,
    CreateOutcomeUnknownError,
    ManualBackupLimitError,
    PaginationError,
    Retention,
    ServerError,
    StalePlanError,
    VPSBackupsError,
    WaitTimeoutError,
)
from vpsbackups_async._pruning.rotation import place_for
from vpsbackups_async._pruning.sizes import size_problem
from vpsbackups_async.errors import PruneRefusedError
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    HostileNext,
    Latency,
    Reply,
    SeenRequest,
    ServerFault,
)

pytestmark = [
    pytest.mark.fake_vps(servers=2, backups=0, backup_seconds=60),
    pytest.mark.virtual_time,
]

FOUR = Retention(daily=4, weekly=4, job=JOB)
SIX = Retention(last=6, job=JOB)
LABEL = f"[job:{JOB}]"


def notes(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", ()))


# --- The usual night -----------------------------------------------------------------------------


async def test_a_rotation_makes_a_backup_and_then_deletes_the_oldest(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 3)
    done = await client.rotate(1, POLICY, description="Nightly")
    assert done.backup is not None
    assert (done.backup.status, done.backup.description) == ("completed", f"Nightly [job:{JOB}]")
    assert done.freed is None
    assert [one.id for one in done.deleted] == deletes(fake) == ids[:2]
    assert held(fake, 1) == [ids[2], done.backup.id]
    assert f"server 1: backup {done.backup.id} was made" in str(done)
    order = [seen.method for seen in fake.requests if seen.method != "GET"]
    assert order == ["POST", "DELETE", "DELETE"]


async def test_the_first_rotation_of_a_server_deletes_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    other = add(fake, 1, 1, description="By hand")
    done = await client.rotate(1, POLICY)
    assert done.backup is not None
    assert held(fake, 1) == [other, done.backup.id]
    assert done.deleted == ()


async def test_a_lost_answer_is_settled_with_certainty(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 2)
    same = add(fake, 1, 0)  # of this minute, with the same description
    fake.inject(Drop("after", method="POST", times=1))
    done = await client.rotate(1, POLICY, description="Nightly")
    assert done.backup is not None
    assert done.backup.id not in {*ids, same}
    assert len(posts(fake)) == 1
    assert held(fake, 1) == [same, done.backup.id]


async def test_one_that_somebody_made_just_before_the_create_is_not_taken_for_it(
    fake: FakeVPS, client: BackupsClient
) -> None:
    def interfere(_: SeenRequest) -> None:
        if len(fake.requests) == 2:
            add(fake, 1, 0, description=f"Nightly [job:{JOB}]", id=900)

    fake.on_request = interfere
    fake.inject(Drop("after", method="POST", times=1))
    done = await client.rotate(1, POLICY, description="Nightly")
    assert done.backup is not None
    assert done.backup.id != 900


async def test_a_list_that_lags_behind_the_wait_is_looked_at_again(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 2)
    stale: list[bytes] = []

    def lag(seen: SeenRequest) -> None:
        running = [one for one in fake.backups if one["status"] == "in_progress"]
        if running and not stale:
            page = {"count": len(fake.backups), "results": fake.backups, "next": None}
            stale.append(json.dumps(page).encode())
        elif stale and not running and len(stale) == 1:
            stale.append(b"")
            fake.inject(Reply(200, stale[0], method="GET", times=2, after=1))

    fake.on_request = lag
    done = await client.rotate(1, POLICY)
    assert done.backup is not None
    assert done.backup.is_completed


# --- Whatever fails before the check deletes nothing ---------------------------------------------


def lost_answer(fake: FakeVPS) -> None:
    fake.inject(Drop("before", method="POST"))


def failing(fake: FakeVPS) -> None:
    fake.fails = lambda _: True


def endless(fake: FakeVPS) -> None:
    fake.backup_seconds = 10_000


def refused(fake: FakeVPS) -> None:
    fake.inject(ServerFault(503, method="POST"))


def running(fake: FakeVPS) -> None:
    fake.one_at_a_time = True
    add(fake, 1, 0, status="in_progress", description="By hand")


def unreadable(fake: FakeVPS) -> None:
    fake.inject(HostileNext("http://evil.example/?page=2"))


def empty(fake: FakeVPS) -> None:
    sized(fake, 0)


def small(fake: FakeVPS) -> None:
    sized(fake, 1999)


def sized(fake: FakeVPS, size: int) -> None:
    """Let each create make a completed backup of this size."""

    def make(seen: SeenRequest) -> None:
        if seen.method == "POST":
            made = fake.add_backup(1, description=f"[job:{JOB}]", size_mb=size)
            body = json.dumps({**made, "status": "in_progress"}).encode()
            fake.inject(Reply(201, body, method="POST", times=1))

    fake.on_request = make


def trimmed(fake: FakeVPS) -> None:
    def make(seen: SeenRequest) -> None:
        if seen.method == "POST":
            made = fake.add_backup(1, description="", status="in_progress", seconds=60)
            fake.inject(Reply(201, json.dumps(made).encode(), method="POST", times=1))

    fake.on_request = make


@pytest.mark.parametrize(
    ("trouble", "error", "words"),
    [
        (lost_answer, CreateOutcomeUnknownError, "server 1"),
        (failing, BackupFailedError, "failed"),
        (endless, WaitTimeoutError, "not completed in time"),
        (refused, ServerError, "503"),
        (running, BackupInProgressError, "409"),
        (unreadable, PaginationError, "another host|evil"),
        (empty, PruneRefusedError, "not verified: its size is 0 MB"),
        (small, PruneRefusedError, "not verified: its size is 1999 MB, less than half"),
        (trimmed, PruneRefusedError, "has lost its label"),
    ],
)
async def test_whatever_fails_before_the_new_backup_is_verified_deletes_nothing(
    fake: FakeVPS,
    trouble: Callable[[FakeVPS], None],
    error: type[VPSBackupsError],
    words: str,
) -> None:
    ids = add_nights(fake, 1, 5, size_mb=4000)
    trouble(fake)
    async with client_of(fake) as client:
        with pytest.raises(error, match=words):
            await client.rotate(1, POLICY)
    assert deletes(fake) == []
    assert set(ids) <= set(held(fake, 1))


async def test_a_create_that_is_answered_with_an_old_backup_deletes_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 3)
    old = next(one for one in fake.backups if one["id"] == ids[0])
    fake.inject(Reply(201, json.dumps(old).encode(), method="POST"))
    with pytest.raises(PruneRefusedError, match=f"backup {ids[0]} of server 1 was there before"):
        await client.rotate(1, POLICY)
    assert held(fake, 1) == ids


async def test_the_error_says_which_backup_was_started(
    fake: FakeVPS, client: BackupsClient
) -> None:
    failing(fake)
    with pytest.raises(BackupFailedError) as caught:
        await client.rotate(1, POLICY)
    (made,) = held(fake, 1)
    assert f"backup {made} of server 1 was started: nothing was deleted after it" in notes(
        caught.value
    )


@pytest.mark.parametrize(
    ("size", "earlier", "words"),
    [
        (2000, [4000] * 5, ""),
        (1999, [4000] * 5, "less than half"),
        (1500, [2000, 4000, 3000, 2000, 3000, 5000], ""),
        (1499, [2000, 4000, 3000, 2000, 3000, 90], "less than half of the usual 3000 MB"),
        (1, [], ""),
        (0, [], "its size is 0 MB"),
        (None, [], ""),
        (None, [None] * 5, ""),
        (None, [None, None, None, None, None, 4000], ""),
        (None, [None, None, None, None, 4000], "its size is unknown"),
        (2000, [None, None, 4000], ""),
        (1999, [None, None, 4000], "less than half"),
    ],
)
def test_a_size_is_good_from_half_the_median_of_the_last_five(
    size: int | None, earlier: list[int | None], words: str
) -> None:
    problem = size_problem(size, earlier)
    assert words in problem
    assert bool(problem) is bool(words)


@pytest.mark.parametrize(
    ("size", "earlier"),
    [
        (1, [1, 1, 1, 1, 1, 1, 4000]),
        (1, [0, 0, 0, 4000]),
        (1000, [1000, 1999, 1999, 1999, 4000, 4000]),
        (1, [None, 1, None, 1, 1, 4000]),
        (1, [1, 1, 4000, 4000, 1]),
    ],
)
def test_sizes_that_are_refused_never_become_the_usual_ones(
    size: int, earlier: list[int | None]
) -> None:
    assert "less than half of the usual 4000 MB" in size_problem(size, earlier)


def test_sizes_that_shrink_by_less_than_half_at_a_time_are_good() -> None:
    assert size_problem(700, [1000, 1000, 1000, 1900, 1900, 1900, 3500]) == ""


async def test_nights_of_tiny_backups_delete_none_of_the_good_ones(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 4, size_mb=4000)
    sized(fake, 1)
    for _ in range(6):
        with pytest.raises(PruneRefusedError, match="not verified: its size is 1 MB"):
            await client.rotate(1, Retention(last=4, job=JOB))
        fake.advance(86_400)
    assert deletes(fake) == []
    assert set(ids) <= set(held(fake, 1))


@pytest.mark.parametrize("size", [1, 1999, None])
async def test_nights_of_refused_sizes_push_out_no_verified_backup(
    fake: FakeVPS, client: BackupsClient, size: int | None
) -> None:
    good = [add(fake, 1, age, size_mb=4000) for age in (7, 6, 5, 4)]
    refused = [add(fake, 1, age, size_mb=size) for age in (3, 2, 1)]
    policy = Retention(last=4, job=JOB)
    dry = await client.rotate(1, policy, dry_run=True)
    done = await client.rotate(1, policy)
    assert [one.id for one in dry.deleted] == [one.id for one in done.deleted] == [good[0]]
    assert set(good[1:]) | set(refused[1:]) <= set(held(fake, 1))


async def test_a_refused_size_goes_once_the_policy_lets_it_go_with_the_refused_ones_too(
    fake: FakeVPS, client: BackupsClient
) -> None:
    good = [add(fake, 1, 9, size_mb=4000)]
    refused = [add(fake, 1, age, size_mb=1) for age in (8, 7)]
    good += [add(fake, 1, age, size_mb=4000) for age in (3, 2, 1)]
    done = await client.rotate(1, Retention(last=4, job=JOB))
    assert [one.id for one in done.deleted] == [good[0], *refused]


async def test_a_size_that_turns_out_bad_while_others_are_deleted_pushes_out_nothing_more(
    fake: FakeVPS, client: BackupsClient
) -> None:
    good = [add(fake, 1, age, size_mb=4000) for age in (8, 7, 6, 5, 4, 3)]
    fake.inject(Latency(5.5, method="DELETE", times=1))

    def spoil(seen: SeenRequest) -> None:
        if seen.method == "DELETE":
            fake.remove_backup(good[-1])
            add(fake, 1, 3, id=good[-1], size_mb=1)

    fake.on_request = spoil
    with pytest.raises(StalePlanError, match=f"backup {good[2]} .* would keep it now"):
        await client.rotate(1, Retention(last=4, job=JOB))
    assert deletes(fake) == good[:1]


async def test_sizes_push_out_others_where_the_callers_check_counts(
    fake: FakeVPS, client: BackupsClient
) -> None:
    good = [add(fake, 1, age, size_mb=4000) for age in (7, 6, 5, 4)]
    for age in (3, 2, 1):
        add(fake, 1, age, size_mb=1)

    async def verify(_: Backup) -> bool:
        return True

    done = await client.rotate(1, Retention(last=4, job=JOB), verify=verify)
    assert [one.id for one in done.deleted] == good


async def test_a_refused_size_is_said_with_the_way_to_accept_a_lasting_one(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 3, size_mb=4000)
    small(fake)
    with pytest.raises(
        PruneRefusedError, match=r"if backups are to stay so small, delete .*library.s verify"
    ):
        await client.rotate(1, POLICY)


# --- The caller's own check ----------------------------------------------------------------------


async def test_a_check_of_the_callers_counts_in_place_of_the_size(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 3, size_mb=100_000)
    seen: list[Backup] = []

    async def verify(backup: Backup) -> bool:
        seen.append(backup)
        return True

    done = await client.rotate(1, POLICY, verify=verify)
    assert seen == [done.backup]
    assert deletes(fake) == ids[:2]


async def test_a_check_may_be_an_object_with_a_coroutine_method(
    fake: FakeVPS, client: BackupsClient
) -> None:
    class Check:
        async def __call__(self, _: Backup) -> bool:
            return True

    ids = add_nights(fake, 1, 3)
    await client.rotate(1, POLICY, verify=Check())
    assert deletes(fake) == ids[:2]


async def test_a_check_that_is_no_coroutine_function_is_refused_before_anything_is_sent(
    fake: FakeVPS, client: BackupsClient
) -> None:
    plain: Any = bool
    for verify in (plain, lambda _: True):
        with pytest.raises(ValueError, match="verify must be a coroutine function"):
            await client.rotate(1, POLICY, verify=verify)
        with pytest.raises(ValueError, match="verify must be a coroutine function"):
            client.fleet([1]).rotate(POLICY, verify=verify)
    assert fake.requests == []


async def test_a_check_that_says_no_deletes_nothing(fake: FakeVPS, client: BackupsClient) -> None:
    add_nights(fake, 1, 3)

    async def verify(_: Backup) -> bool:
        return False

    with pytest.raises(PruneRefusedError, match="was not verified by the given function"):
        await client.rotate(1, POLICY, verify=verify)
    assert deletes(fake) == []


async def test_what_a_check_raises_is_raised_and_deletes_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 3)

    async def verify(_: Backup) -> bool:
        raise ZeroDivisionError("the restore failed")

    with pytest.raises(ZeroDivisionError) as caught:
        await client.rotate(1, POLICY, verify=verify)
    assert "was started" in notes(caught.value)
    assert deletes(fake) == []


async def test_the_server_is_looked_at_again_after_the_callers_check(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 3)

    async def verify(backup: Backup) -> bool:
        fake.remove_backup(backup.id)
        return True

    with pytest.raises(StalePlanError, match="is to stay, and is no longer there"):
        await client.rotate(1, POLICY, verify=verify)
    assert deletes(fake) == []


# --- After the check -----------------------------------------------------------------------------


async def test_a_rotation_that_is_cancelled_logs_what_was_deleted(
    fake: FakeVPS, client: BackupsClient, caplog: pytest.LogCaptureFixture
) -> None:
    add(fake, 1, 5)
    add_nights(fake, 1, 4)
    doomed = held(fake, 1)[:3]
    going = asyncio.Event()

    def watch(seen: SeenRequest) -> None:
        if seen.method == "DELETE" and seen.path.endswith(f"/{doomed[1]}/"):
            going.set()

    fake.on_request = watch
    fake.inject(Latency(60, method="DELETE", path=f"/{doomed[1]}/"))
    running = asyncio.create_task(client.rotate(1, Retention(last=3, job=JOB)))
    await going.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = f"said of {doomed[0]}:1 that it deleted them, and may have deleted {doomed[1]}:1"
    assert said in caplog.text


async def test_a_rotation_that_would_delete_more_than_half_deletes_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 6)
    with pytest.raises(PruneRefusedError, match="5 of the 7 backups") as caught:
        await client.rotate(1, POLICY)
    assert "was started" in notes(caught.value)
    assert deletes(fake) == []


async def test_a_deletion_that_fails_is_raised_with_what_was_made(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 3)
    fake.inject(ServerFault(500, method="DELETE", path=f"/{ids[0]}/"))
    with pytest.raises(ServerError) as caught:
        await client.rotate(1, POLICY)
    assert "verified, and 1 of 2 deletions after it failed" in notes(caught.value)
    assert held(fake, 1)[:2] == [ids[0], ids[2]]


async def test_a_backup_that_another_run_made_later_is_not_preferred(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.backup_seconds = 30

    def another(seen: SeenRequest) -> None:
        if fake.count("POST") and len(held(fake, 1)) == 4:
            add(fake, 1, -1 / 1440)
            add(fake, 1, -2 / 1440)

    add_nights(fake, 1, 3)
    fake.on_request = another
    with pytest.raises(StalePlanError, match="made later is there already"):
        await client.rotate(1, POLICY)
    assert deletes(fake) == []


# --- A full server -------------------------------------------------------------------------------


async def test_a_policy_that_does_not_fit_is_refused_before_anything_is_made(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 3)
    add(fake, 1, 3, description="Golden [keep]")
    add(fake, 1, 3, description="By hand")
    with pytest.raises(PruneRefusedError, match="; daily=3, weekly=4 fits"):
        await client.rotate(1, FOUR)
    assert posts(fake) == []


async def test_a_full_server_without_make_room_refuses_and_nothing_is_deleted(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 10)
    with pytest.raises(ManualBackupLimitError) as caught:
        await client.rotate(1, FOUR)
    assert "deleting a good one to free a place was not asked for (make_room)" in notes(
        caught.value
    )
    assert deletes(fake) == []


async def test_a_failed_one_of_the_job_makes_room_unasked_whatever_its_age(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 9)
    failed = add(fake, 1, 0.1, status="failed")
    done = await client.rotate(1, SIX)
    assert done.freed is not None
    assert (done.freed.id, deletes(fake)[0]) == (failed, failed)
    assert done.deleted[0] == done.freed
    assert held(fake, 1)[:-1] == [one for one in ids if one not in deletes(fake)]


async def test_the_oldest_failed_one_makes_room(fake: FakeVPS, client: BackupsClient) -> None:
    add_nights(fake, 1, 8)
    failed = [add(fake, 1, age, status="failed") for age in (1.5, 0.5)]
    done = await client.rotate(1, FOUR)
    assert done.freed is not None
    assert done.freed.id == failed[0]


async def test_a_completed_one_of_0_mb_makes_room_as_a_failed_one_does(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 9)
    empty = add(fake, 1, 0.1, size_mb=0)
    done = await client.rotate(1, SIX)
    assert done.freed is not None
    assert done.freed.id == empty


async def test_nights_of_0_mb_fill_no_place_of_good_ones_once_a_night_is_good(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 3)
    for age in (0.9, 0.6, 0.3):
        add(fake, 1, age, size_mb=0)
    dry = await client.rotate(1, Retention(last=3, job=JOB), dry_run=True)
    done = await client.rotate(1, Retention(last=3, job=JOB))
    assert [one.id for one in dry.deleted] == deletes(fake) == ids[:1]
    assert done.backup is not None


@pytest.mark.parametrize(
    "description", ["By hand", "Weekly [job:weekly]", f"Nightly [keep] [job:{JOB}]", "Nightly [jo"]
)
async def test_a_failed_one_of_others_or_pinned_makes_no_room(
    fake: FakeVPS, client: BackupsClient, description: str
) -> None:
    add_nights(fake, 1, 9)
    failed = add(fake, 1, 3, status="failed", description=description)
    with pytest.raises(ManualBackupLimitError):
        await client.rotate(1, FOUR)
    assert failed in held(fake, 1)
    assert deletes(fake) == []


async def test_with_one_failed_and_one_running_the_failed_one_makes_room(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 8)
    failed = add(fake, 1, 3, status="failed")
    runs = add(fake, 1, 0.1, status="in_progress")
    done = await client.rotate(1, FOUR, make_room=True)
    assert done.freed is not None
    assert done.freed.id == failed
    assert runs in held(fake, 1)


async def test_a_refused_create_after_a_failed_one_was_freed_says_so(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.one_at_a_time = True
    ids = add_nights(fake, 1, 8)
    failed = add(fake, 1, 3, status="failed")
    runs = add(fake, 1, 0.1, status="in_progress")
    with pytest.raises(BackupInProgressError) as caught:
        await client.rotate(1, FOUR, make_room=True)
    assert f"backup {failed} was deleted before, to free a place" in notes(caught.value)
    assert held(fake, 1) == [*ids, runs]


async def test_make_room_frees_the_oldest_that_the_policy_lets_go_and_one_only(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 10)
    dry = await client.rotate(1, SIX, make_room=True, dry_run=True)
    assert posts(fake) == []
    done = await client.rotate(1, SIX, make_room=True)
    assert done.freed is not None
    assert dry.freed is not None
    assert dry.freed.id == done.freed.id
    assert [one.id for one in dry.deleted] == [one.id for one in done.deleted] == deletes(fake)
    order = [seen.method for seen in fake.requests if seen.method != "GET"]
    assert order[:2] == ["DELETE", "POST"]
    assert done.freed.id == ids[0]


def a_newer_failure(fake: FakeVPS) -> None:
    add_nights(fake, 1, 9)
    add(fake, 1, 0.2, status="failed", description=f"[job:{JOB}] [keep]")


def one_that_runs(fake: FakeVPS) -> None:
    add_nights(fake, 1, 9)
    add(fake, 1, 0.2, status="in_progress", description="By hand")


def one_with_an_unknown_status(fake: FakeVPS) -> None:
    add_nights(fake, 1, 9)
    add(fake, 1, 3, status="queued")


def one_of_the_job_that_runs(fake: FakeVPS) -> None:
    add_nights(fake, 1, 9)
    add(fake, 1, 0.2, status="in_progress")


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        (a_newer_failure, "the newest one of the job did not complete"),
        (one_of_the_job_that_runs, "the newest one of the job did not complete"),
        (one_that_runs, "one of them may be running"),
        (one_with_an_unknown_status, "one of them may be running"),
    ],
)
async def test_make_room_frees_no_good_one_where_that_is_not_safe(
    fake: FakeVPS, client: BackupsClient, servers: Callable[[FakeVPS], None], words: str
) -> None:
    servers(fake)
    before = held(fake, 1)
    policy = Retention(last=2, job=JOB)
    dry = await client.rotate(1, policy, make_room=True, dry_run=True)
    assert words in dry.plan.problem
    with pytest.raises(ManualBackupLimitError) as caught:
        await client.rotate(1, policy, make_room=True)
    assert words in notes(caught.value)
    assert held(fake, 1) == before


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            Retention(last=1, job=JOB, quota=3, min_keep=3),
            "too few good ones of the job would stay",
        ),
        (Retention(last=4, job=JOB, quota=3), "the policy keeps them all"),
    ],
)
def test_make_room_frees_no_good_one_that_is_needed(policy: Retention, words: str) -> None:
    nights = [backup(NOW - age * DAY, description=f"[job:{JOB}]") for age in (1, 2, 3)]
    place = place_for(policy.decide(nights, NOW), policy, NOW, LABEL, make_room=True)
    assert place.freed is None
    assert words in place.problem


@pytest.mark.parametrize("size", [0, 1])
async def test_ten_nights_of_refused_sizes_with_make_room_cost_one_good_backup(
    fake: FakeVPS, client: BackupsClient, size: int
) -> None:
    ids = add_nights(fake, 1, 10, size_mb=4000)
    sized(fake, size)
    for _ in range(10):
        with pytest.raises((PruneRefusedError, ManualBackupLimitError)):
            await client.rotate(1, SIX, make_room=True)
        fake.advance(86_400)
    assert set(ids[1:]) <= set(held(fake, 1))


async def test_ten_nights_that_the_callers_check_refuses_cost_one_good_backup(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 10)

    async def verify(backup: Backup) -> bool:
        return backup.id in ids

    for _ in range(10):
        with pytest.raises((PruneRefusedError, ManualBackupLimitError)):
            await client.rotate(1, SIX, make_room=True, verify=verify)
        fake.advance(86_400)
    assert set(ids[1:]) <= set(held(fake, 1))


async def test_a_newest_one_that_the_callers_check_refuses_makes_no_good_one_go(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 10)
    asked: list[int] = []

    async def verify(backup: Backup) -> bool:
        asked.append(backup.id)
        return False

    with pytest.raises(ManualBackupLimitError) as caught:
        await client.rotate(1, SIX, make_room=True, verify=verify)
    assert "the newest one of the job was not verified by the given function" in notes(caught.value)
    assert asked == [ids[-1]]
    assert deletes(fake) == []


async def test_a_server_that_changed_during_the_callers_check_of_its_newest_frees_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 10)

    async def verify(_: Backup) -> bool:
        fake.remove_backup(ids[-1])
        add(fake, 1, 0)
        return True

    with pytest.raises(StalePlanError, match="server 1 changed"):
        await client.rotate(1, SIX, make_room=True, verify=verify)
    assert deletes(fake) == []
    assert posts(fake) == []


async def test_the_callers_check_of_the_newest_one_counts_in_place_of_its_size(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = [*add_nights(fake, 1, 9, size_mb=100_000), add(fake, 1, 0.5, size_mb=1)]

    async def verify(_: Backup) -> bool:
        return True

    done = await client.rotate(1, SIX, make_room=True, verify=verify)
    assert done.freed is not None
    assert done.freed.id == ids[0]


async def test_a_dry_run_does_not_call_the_callers_check(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 10)

    async def verify(_: Backup) -> bool:
        raise ZeroDivisionError

    dry = await client.rotate(1, SIX, make_room=True, verify=verify, dry_run=True)
    assert dry.freed is not None
    assert dry.freed.id == ids[0]


def sizes_of_nights(*sizes: int | None) -> list[Backup]:
    """A backup of the job for each of these sizes, one a night, the newest first."""
    return [
        backup(NOW - age * DAY, description=f"[job:{JOB}]", size_mb=size)
        for age, size in enumerate(sizes, 1)
    ]


@pytest.mark.parametrize(
    ("sizes", "min_keep", "words"),
    [
        ([1999, 4000, 4000], 1, "the newest one of the job was not verified: its size is 1999 MB"),
        ([4000, 1, 4000], 2, "too few good ones of the job would stay"),
        ([4000, 1, 4000], 1, ""),
        ([2000, 4000, 4000], 2, ""),
    ],
)
def test_only_verified_sizes_count_as_good_ones_that_stay(
    sizes: list[int], min_keep: int, words: str
) -> None:
    policy = Retention(last=2, job=JOB, quota=3, min_keep=min_keep)
    decisions = policy.decide(sizes_of_nights(*sizes), NOW)
    place = place_for(decisions, policy, NOW, LABEL, make_room=True)
    assert words in place.problem
    assert bool(words) is (place.freed is None)


def test_make_room_frees_one_of_a_refused_size_before_a_verified_one() -> None:
    nights = sizes_of_nights(4000, 4000, 1, 4000)
    policy = Retention(last=2, job=JOB, quota=4)
    place = place_for(policy.decide(nights, NOW), policy, NOW, LABEL, make_room=True)
    assert place.freed == nights[2]


async def test_a_new_backup_that_is_pinned_counts_for_no_rule_when_room_is_made(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.advance(4 * 86_400)
    assert fake.now.strftime("%a") == "Mon"
    ids = [add(fake, 1, age) for age in (15, 8, 7, 6, 5, 4, 3, 2, 1.5, 1)]
    policy = Retention(last=5, weekly=3, stacked=False, job=JOB)
    options: dict[str, Any] = {"make_room": True, "dry_run": True}
    counted = await client.rotate(1, policy, **options)
    pinned = await client.rotate(1, policy, description="Before the move [keep]", **options)
    assert counted.freed is not None
    assert pinned.freed is not None
    assert (counted.freed.id, pinned.freed.id) == (ids[0], ids[2])
    assert ids[0] in {one.id for one in pinned.plan.kept}


async def test_over_the_quota_nothing_is_freed(fake: FakeVPS, client: BackupsClient) -> None:
    add_nights(fake, 1, 10)
    add(fake, 1, 3, status="failed")
    with pytest.raises(ManualBackupLimitError) as caught:
        await client.rotate(1, FOUR, make_room=True)
    assert "holds 11 of 10 manual backups: deleting one frees no place" in notes(caught.value)
    assert deletes(fake) == []


async def test_a_deletion_that_makes_room_is_not_tried_again_where_the_server_changed_meanwhile(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 10)
    fake.inject(Reply(503, method="DELETE", times=1))

    def lose_all_others(seen: SeenRequest) -> None:
        if seen.method == "DELETE":
            for number in ids[1:]:
                fake.remove_backup(number)

    fake.on_request = lose_all_others
    with pytest.raises(ServerError) as caught:
        await client.rotate(1, SIX, make_room=True)
    assert "no further attempt: server 1 changed" in notes(caught.value)
    assert deletes(fake) == held(fake, 1) == ids[:1]


async def test_a_deletion_that_makes_room_is_tried_again_where_nothing_changed(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 10)
    fake.inject(Reply(503, method="DELETE", times=1))
    done = await client.rotate(1, SIX, make_room=True)
    assert done.freed is not None
    assert done.freed.id == ids[0]


async def test_nothing_is_created_if_the_one_that_makes_room_is_still_listed(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 10)
    fake.inject(Reply(204, method="DELETE"))
    with pytest.raises(VPSBackupsError, match="still listed") as caught:
        await client.rotate(1, SIX, make_room=True)
    assert "nothing was created" in notes(caught.value)
    assert posts(fake) == []


@pytest.mark.parametrize("nights", [9, 10])
async def test_ten_bad_nights_with_make_room_delete_no_good_backup_but_the_one_for_the_first(
    fake: FakeVPS, client: BackupsClient, nights: int
) -> None:
    ids = add_nights(fake, 1, nights)
    failing(fake)
    for _ in range(10):
        with pytest.raises(BackupFailedError):
            await client.rotate(1, SIX, make_room=True)
        fake.advance(86_400)
    good = [one["id"] for one in fake.backups if one["status"] == "completed"]
    assert len(good) == 9
    assert set(good) <= set(ids)
    assert len(held(fake, 1)) == 10


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Retention(last=2, job=JOB), "9 of the 11 backups"),
        (Retention(last=5, job=JOB), "6 of the 11 backups"),  # the one that makes room included
    ],
)
async def test_a_rotation_that_would_delete_more_than_half_frees_nothing(
    fake: FakeVPS, client: BackupsClient, policy: Retention, words: str, dry_run: bool
) -> None:
    add_nights(fake, 1, 10)
    with pytest.raises(PruneRefusedError, match=words):
        await client.rotate(1, policy, make_room=True, dry_run=dry_run)
    assert {seen.method for seen in fake.requests} == {"GET"}


async def test_what_made_room_counts_among_what_is_deleted_after_the_new_backup(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 9)
    failed = add(fake, 1, 0.5, status="failed")

    def others_add_two(_: SeenRequest) -> None:
        if fake.count("POST") and len(held(fake, 1)) == 10:
            add(fake, 1, 20)
            add(fake, 1, 21)

    fake.on_request = others_add_two
    with pytest.raises(PruneRefusedError, match="7 of the 13 backups"):
        await client.rotate(1, SIX, make_room=True)
    assert deletes(fake) == [failed]


# --- Dry runs and arguments ----------------------------------------------------------------------


async def test_a_dry_run_says_what_the_rotation_does_and_sends_only_gets(
    fake: FakeVPS, client: BackupsClient
) -> None:
    ids = add_nights(fake, 1, 3)
    dry = await client.rotate(1, POLICY, dry_run=True)
    assert (dry.backup, dry.dry_run) == (None, True)
    assert [one.id for one in dry.deleted] == ids[:2]
    assert {seen.method for seen in fake.requests} == {"GET"}
    assert "server 1: a new backup would be made\n" in str(dry)
    done = await client.rotate(1, POLICY)
    assert [one.id for one in done.deleted] == ids[:2]


async def test_a_dry_run_of_an_empty_server_makes_a_backup_and_deletes_nothing(
    client: BackupsClient,
) -> None:
    dry = await client.rotate(1, POLICY, dry_run=True)
    assert (dry.deleted, dry.plan.problem) == ((), "")


async def test_a_dry_run_is_refused_where_the_rotation_would_delete_too_much(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add_nights(fake, 1, 6)
    with pytest.raises(PruneRefusedError, match="5 of the 7 backups"):
        await client.rotate(1, POLICY, dry_run=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"server_id": 0}, "server_id must be"),
        ({"retention": None}, "retention must be"),
        ({"retention": Retention(last=2)}, "needs a retention with a job"),
        ({"description": 7}, "description must be"),
        ({"description": "[job:x] y"}, "cannot belong to a job"),
        ({"make_room": 1}, "make_room must be"),
        ({"dry_run": None}, "dry_run must be"),
        ({"verify": True}, "verify must be"),
        ({"backoff": 5}, "backoff must be"),
        ({"timeout": -1}, "timeout must be"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    fake: FakeVPS, client: BackupsClient, options: dict[str, Any], words: str
) -> None:
    given = {"server_id": 1, "retention": POLICY, **options}
    with pytest.raises(ValueError, match=words):
        await client.rotate(**given)
    assert fake.requests == []
