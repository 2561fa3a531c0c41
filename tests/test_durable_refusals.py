"""Answers that deny a create, or tell nothing of it: what was carried out all the same is found."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from helpers_guard import LIMITS, ON_WIRE, PATIENT, SERVER, setting

from vpsbackups_async import (
    ApiError,
    BackupInProgressError,
    ConflictError,
    CreateOutcomeUnknownError,
    NotFoundError,
    ServerError,
    UnexpectedRedirectError,
)
from vpsbackups_async.durable.values import ItemState, RunOutcome
from vpsbackups_async.testing import Drop, FakeVPS, Fault, NotJSON, Redirect, Reply, ServerFault


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=1, backups=0, clock=time.time) as fake:
        yield fake


def not_handled(**options: Any) -> Fault:
    """A 503 to a create, once."""
    return ServerFault(503, method="POST", times=1, **options)


BUSY = Reply(409, b'{"detail": "a backup is running"}', method="POST", times=1)


# --- A 503 ----------------------------------------------------------------------------------------


async def test_a_create_that_follows_a_503_is_noted_as_a_second_one_before_it_is_sent(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(not_handled())
    real_fake.inject(Drop(method="POST"))
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(CreateOutcomeUnknownError):
            await made.guard().create(await made.claimed(), "Nightly")
        assert (await made.claimed()).posts == 2


@pytest.mark.parametrize("rate", [None, 20.0])
async def test_a_create_that_was_carried_out_after_its_503_is_named_as_a_twin(
    real_fake: FakeVPS, tmp_path: Path, rate: float | None
) -> None:
    real_fake.inject(not_handled(when="later", late=1.0))
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.set_limits(rate, None)
        item, guard = await made.claimed(), made.guard()
        found = await guard.create(item, "Nightly")
        late = real_fake.add_backup(
            SERVER, description=f"Nightly [vb:{item.marker}]", backup_type="manual"
        )
        assert await guard.twins(item, found.backup.id) == (late["id"],)
        taken_over = await made.claimed()
        assert await made.guard().twins(taken_over, found.backup.id) == (late["id"],)
    assert real_fake.count("POST") == 2


async def test_a_retry_after_a_503_takes_the_backup_that_was_made_all_the_same(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(not_handled(when="after", retry_after=1000.0))
    real_fake.visible_after = 1.0
    async with setting(tmp_path, real_fake, evolve(PATIENT, create_again_after=5.0)) as made:
        with pytest.raises(ServerError):
            await made.guard().create(await made.claimed(), "Nightly")
        item = await made.retried(ItemState.FAILED, "ServerError")
        found = await made.guard().create(item, "Nightly")
        assert (await made.claimed(1)).posts == 1
    assert [one["id"] for one in real_fake.backups] == [found.backup.id]
    assert real_fake.count("POST") == 1


async def test_a_retry_after_a_503_sends_another_create_once_looks_have_shown_nothing(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(not_handled(retry_after=1000.0))
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(ServerError):
            await made.guard().create(await made.claimed(), "Nightly")
        item, began = await made.retried(ItemState.FAILED, "ServerError"), time.time()
        found = await made.guard().create(item, "Nightly")
        sent = [seen.at for seen in real_fake.requests if seen.method == "POST"]
        late = real_fake.add_backup(
            SERVER, description=f"Nightly [vb:{item.markers[0]}]", backup_type="manual"
        )
        assert await made.guard().twins(item, found.backup.id) == (late["id"],)
    assert LIMITS.create_again_after is not None
    assert sent[1] >= began + LIMITS.create_again_after


async def test_a_retry_that_is_cancelled_leaves_what_may_have_been_carried_out_as_failed(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(not_handled(retry_after=1000.0))
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(ServerError):
            await made.guard().create(await made.claimed(), "Nightly")
        ended = RunOutcome("nightly", SERVER, ItemState.FAILED, error="ServerError")
        await made.items.end(await made.claimed(), ended)
        await made.store.retry(made.run, ItemState.FAILED, -1, lambda _, __: None)
        await made.store.cancel(made.run)
        (outcome,) = await made.store.outcomes(made.run, -1, 10)
        assert (outcome.state, outcome.error) == (ItemState.FAILED, "ServerError")
        await made.store.retry(made.run, ItemState.FAILED, -1, lambda _, __: None)
        assert len((await made.claimed(2)).markers) == 3


async def test_a_retry_after_a_503_looks_once_where_no_create_is_ever_to_be_sent_again(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(not_handled(retry_after=1000.0))
    async with setting(tmp_path, real_fake, evolve(LIMITS, create_again_after=None)) as made:
        with pytest.raises(ServerError):
            await made.guard().create(await made.claimed(), "Nightly")
        item, looks = await made.retried(ItemState.FAILED, "ServerError"), real_fake.count("GET")
        await made.guard().create(item, "Nightly")
    assert real_fake.count("GET") == looks + 1


# --- A refusal after an earlier create ------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
async def test_a_create_that_its_own_backup_refuses_after_a_503_takes_that_one(
    real_fake: FakeVPS, tmp_path: Path, full: bool
) -> None:
    real_fake.one_at_a_time, real_fake.quota = not full, 1
    real_fake.visible_after = 1.5
    real_fake.inject(not_handled(when="after"))
    async with setting(tmp_path, real_fake, evolve(PATIENT, create_again_after=5.0)) as made:
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert [one["id"] for one in real_fake.backups] == [found.backup.id]


async def test_a_create_that_its_own_backup_refuses_after_a_cut_connection_takes_that_one(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.one_at_a_time = True
    real_fake.visible_after = 1.4  # the looks before the second create take 0.8 seconds
    real_fake.inject(Drop(method="POST", when="after", times=1))
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.note_markers()
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert [one["id"] for one in real_fake.backups] == [found.backup.id]


@pytest.mark.parametrize(
    ("before", "are_markers_kept"),
    [(not_handled(), False), (Drop(method="POST", times=1), True)],
    ids=["a 503", "a cut"],
)
async def test_a_create_that_another_backup_refuses_after_one_that_made_nothing_is_refused(
    real_fake: FakeVPS, tmp_path: Path, before: Fault, are_markers_kept: bool
) -> None:
    real_fake.inject(before)
    real_fake.inject(BUSY)
    async with setting(tmp_path, real_fake, PATIENT) as made:
        if are_markers_kept:
            await made.items.note_markers()
        with pytest.raises(ConflictError):
            await made.guard().create(await made.claimed(), "Nightly")
        # What comes late is still found by a retry.
        item = await made.retried(ItemState.FAILED, "ConflictError")
        late = real_fake.add_backup(SERVER, description=f"Nightly [vb:{item.markers[0]}]")
        found = await made.guard().create(item, "Nightly")
    assert found.backup.id == late["id"]
    assert real_fake.count("POST") == 2


# --- Answers that need not be the API's -----------------------------------------------------------

ELSEWHERE = [
    pytest.param(Redirect("/login", 302, method="POST", times=1, when="after"), id="a redirect"),
    *(
        pytest.param(
            NotJSON(status, method="POST", times=1, when="after"), id=f"a page with {status}"
        )
        for status in (400, 403, 404, 409)
    ),
]


@pytest.mark.parametrize("answer", ELSEWHERE)
@pytest.mark.parametrize("lag", [0.0, 0.7])
async def test_a_create_with_an_answer_that_need_not_be_the_apis_is_looked_for(
    real_fake: FakeVPS, tmp_path: Path, answer: Fault, lag: float
) -> None:
    real_fake.inject(answer)
    real_fake.visible_after = lag
    async with setting(tmp_path, real_fake, PATIENT) as made:
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert [one["id"] for one in real_fake.backups] == [found.backup.id]


async def test_a_create_with_an_answer_that_need_not_be_the_apis_is_sent_again_as_after_a_cut(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(Redirect("/login", method="POST", times=1))
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.note_markers()
        item, began = await made.claimed(), time.time()
        await made.guard().create(item, "Nightly")
        assert (item.posts, item.may_repeat) == (2, True)
        sent = [seen.at for seen in real_fake.requests if seen.method == "POST"]
    assert LIMITS.create_again_after is not None
    assert sent[1] >= began + ON_WIRE + LIMITS.create_again_after


NOWHERE = [
    pytest.param(lambda: Redirect("/login", 302, when="after"), id="a redirect"),
    *(
        pytest.param(
            lambda status=status: NotJSON(status, when="after"), id=f"a page with {status}"
        )
        for status in (400, 404, 409)
    ),
]


@pytest.mark.parametrize("answer", NOWHERE)
async def test_where_no_answer_is_the_apis_and_none_has_ever_been_a_create_failed(
    real_fake: FakeVPS, tmp_path: Path, answer: Callable[[], Fault]
) -> None:
    real_fake.inject(answer())
    async with setting(tmp_path, real_fake, PATIENT) as made:
        with pytest.raises((ApiError, UnexpectedRedirectError)):
            await made.guard().create(await made.claimed(), "Nightly")
    assert real_fake.count("POST") == 1


@pytest.mark.parametrize("answer", NOWHERE)
async def test_a_retry_looks_first_where_no_answer_was_the_apis_and_none_had_ever_been(
    real_fake: FakeVPS, tmp_path: Path, answer: Callable[[], Fault]
) -> None:
    real_fake.inject(answer())
    async with setting(tmp_path, real_fake, PATIENT) as made:
        with pytest.raises((ApiError, UnexpectedRedirectError)):
            await made.guard().create(await made.claimed(), "Nightly")
        real_fake.clear_faults()
        item = await made.retried(ItemState.FAILED, "NotFoundError")
        found = await made.guard().create(item, "Nightly")
    assert [one["id"] for one in real_fake.backups] == [found.backup.id]


async def test_a_retry_with_the_right_url_sends_a_create_once_looks_have_shown_nothing(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(NotJSON(404))
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(NotFoundError):
            await made.guard().create(await made.claimed(), "Nightly")
        real_fake.clear_faults()
        item, began = await made.retried(ItemState.FAILED, "NotFoundError"), time.time()
        await made.guard().create(item, "Nightly")
    sent = [seen.at for seen in real_fake.requests if seen.method == "POST"]
    assert LIMITS.create_again_after is not None
    assert sent[1] >= began + LIMITS.create_again_after


async def test_where_the_api_was_seen_once_a_page_in_its_place_tells_nothing_of_a_create(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(NotJSON(404))
    async with setting(tmp_path, real_fake) as made:
        await made.items.note_markers()
        with pytest.raises(CreateOutcomeUnknownError, match="could not be read"):
            await made.guard().create(await made.claimed(), "Nightly")


@pytest.mark.parametrize(
    "answer",
    [
        *(Reply(status, b'{"detail": "no"}', method="POST") for status in (400, 403, 404, 409)),
        Reply(400, b'{"server_id": ["no", "none"]}', method="POST"),
        Reply(400, b'["no"]', method="POST"),
        Reply(401, b"", method="POST"),
        Reply(429, b"<html>", {"Retry-After": "1000"}, method="POST"),
    ],
    ids=lambda answer: f"{answer.status} {answer.body.decode()[:9]}",
)
async def test_after_a_refusal_nothing_is_looked_for(
    real_fake: FakeVPS, tmp_path: Path, answer: Reply
) -> None:
    real_fake.inject(answer)
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(ApiError):
            await made.guard().create(await made.claimed(), "Nightly")
        item = await made.retried(ItemState.FAILED, "ApiError")
        assert (item.posts, len(item.markers)) == (0, 1)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b""),
        (404, b"{}"),
        (404, b"[]"),
        (404, b'{"message": "Not Found"}'),
        (404, b'{"success": false, "errors": ["no"]}'),
        (404, b'{"errors": [{"code": 1}]}'),
        (404, b'{"detail": nu'),
        (409, b""),
        (499, b""),
    ],
)
async def test_a_retry_looks_first_after_a_refusal_that_is_not_worded_as_the_apis(
    real_fake: FakeVPS, tmp_path: Path, status: int, body: bytes
) -> None:
    real_fake.inject(Reply(status, body, method="POST", times=1, when="after"))
    async with setting(tmp_path, real_fake, PATIENT) as made:
        with pytest.raises(ApiError):
            await made.guard().create(await made.claimed(), "Nightly")
        item = await made.retried(ItemState.FAILED, "ApiError")
        found = await made.guard().create(item, "Nightly")
    assert [one["id"] for one in real_fake.backups] == [found.backup.id]


async def test_a_refusal_that_is_not_worded_as_the_apis_is_told_without_looks_for_a_backup(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(Reply(404, b"", method="POST"))
    async with setting(tmp_path, real_fake, PATIENT) as made:
        with pytest.raises(NotFoundError):
            await made.guard().create(await made.claimed(), "Nightly")
    assert real_fake.count("GET") == 0


async def test_a_running_backup_that_a_409_without_words_tells_of_is_not_waited_for(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.add_backup(SERVER, status="in_progress", backup_type="manual")
    real_fake.inject(Reply(409, b"", method="POST"))
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(BackupInProgressError):
            await made.guard().create(await made.claimed(), "Nightly")
