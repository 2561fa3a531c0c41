"""`get`, `create`, `delete` and `restore` against the server."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers_streams import on_page
from helpers_transport import VERBS, RawServer, at_once, http

from vpsbackups_async import (
    ApiError,
    BackupInProgressError,
    BackupRef,
    BackupsClient,
    BadRequestError,
    ConflictError,
    DeadlineExceededError,
    InvalidResponseError,
    ManualBackupLimitError,
    NotFoundError,
    PermissionDeniedError,
    RetryPolicy,
    ServerError,
    Timeouts,
    VPSBackupsError,
)
from vpsbackups_async.errors import NotRestorableError
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Latency,
    NotJSON,
    RateLimit,
    Reply,
    SeenRequest,
    ServerFault,
)

BAD_IDS = [0, -1, True, "1", "../x", 1.0, None, b"1"]


# --- get -----------------------------------------------------------------------------------------


@pytest.fixture
async def long() -> AsyncIterator[FakeVPS]:
    """A server of 25 backups, 10 a page."""
    async with FakeVPS(servers={1: "one", 2: "two"}, page_size=10) as fake:
        for _ in range(25):
            fake.add_backup(1)
        yield fake


@pytest.fixture
async def reader(long: FakeVPS) -> AsyncIterator[BackupsClient]:
    retry = RetryPolicy(attempts=1)
    async with BackupsClient(long.token, base_url=long.url, retry=retry) as made:
        yield made


@pytest.mark.parametrize(("backup_id", "requests"), [(25, 1), (16, 1), (15, 2), (1, 3)])
async def test_get_reads_as_far_as_the_backup(
    long: FakeVPS, reader: BackupsClient, backup_id: int, requests: int
) -> None:
    backup = await reader.get(backup_id)
    assert (backup.id, backup.server.name) == (backup_id, "one")
    assert long.count() == requests


async def test_get_asks_for_one_server_s_list_where_it_is_known(
    long: FakeVPS, reader: BackupsClient
) -> None:
    assert (await reader.get(25, server_id=1)).id == 25
    assert long.requests[-1].query == {"server_id": "1"}
    with pytest.raises(NotFoundError, match="backup 25 is not in the list of server 2"):
        await reader.get(25, server_id=2)


async def test_get_gives_no_other_server_s_backup_where_filters_are_ignored(
    long: FakeVPS, reader: BackupsClient
) -> None:
    backup = long.backups[0]
    body = json.dumps({"count": 1, "next": None, "results": [backup]}).encode()
    long.inject(Reply(200, body))
    with pytest.raises(NotFoundError):
        await reader.get(backup["id"], server_id=2)


async def test_a_backup_that_is_not_there_is_not_found_after_one_whole_walk(
    long: FakeVPS, reader: BackupsClient
) -> None:
    with pytest.raises(NotFoundError, match="backup 99 is not in the list") as caught:
        await reader.get(99)
    assert long.count() == 3
    assert caught.value.status == 404


async def test_get_finds_a_backup_that_moved_to_a_page_that_was_read(
    long: FakeVPS, reader: BackupsClient
) -> None:
    on_page(long, 2, lambda: long.remove_backup(25))
    assert (await reader.get(15)).id == 15
    assert long.count() == 3 + 1


async def test_get_gives_up_on_a_list_that_never_rests(
    long: FakeVPS, reader: BackupsClient
) -> None:
    def restless(seen: SeenRequest) -> None:
        if seen.number % 3 == 2:
            long.add_backup(2)

    long.on_request = restless
    with pytest.raises(NotFoundError):
        await reader.get(99)
    assert long.count() == 9


async def test_an_error_of_the_list_is_not_taken_for_an_absent_backup(
    long: FakeVPS, reader: BackupsClient
) -> None:
    long.inject(ServerFault(status=500, path="page=2"))
    with pytest.raises(ServerError):
        await reader.get(1)


# --- create --------------------------------------------------------------------------------------


async def test_create_gives_the_backup_as_it_begins(fake: FakeVPS, client: BackupsClient) -> None:
    backup = await client.create(2, description="before the upgrade")
    assert (backup.server.id, backup.status, backup.size_mb) == (2, "in_progress", None)
    assert (backup.description, backup.is_manual) == ("before the upgrade", True)
    assert backup.message is not None
    assert backup.message.startswith("Backup is being created.")
    assert backup.ref == BackupRef(16, 2)
    assert [seen.json for seen in fake.requests] == [
        {"server_id": 2, "description": "before the upgrade"}
    ]


async def test_no_description_is_not_sent(fake: FakeVPS, client: BackupsClient) -> None:
    await client.create(1)
    assert fake.requests[0].json == {"server_id": 1}


@pytest.mark.parametrize("status", [400, 409])
async def test_ten_manual_backups_are_the_limit_whatever_the_status(
    fake: FakeVPS, client: BackupsClient, status: int
) -> None:
    fake.quota_status = status
    for _ in range(10):
        fake.add_backup(1)
    with pytest.raises(ManualBackupLimitError, match="at most 10") as caught:
        await client.create(1)
    assert caught.value.status == status
    assert caught.value.detail == "A server can have at most 10 manual backups."
    assert (caught.value.method, caught.value.path) == ("POST", "/api/v1/backups/")
    assert fake.count("POST") == 1
    assert (await client.create(2)).server.id == 2


@pytest.mark.parametrize("status", [400, 409])
async def test_a_backup_in_progress_is_recognised_whatever_the_status(
    fake: FakeVPS, client: BackupsClient, status: int
) -> None:
    fake.add_backup(1, status="in_progress")
    fake.inject(Reply(status, b'{"detail": "Nope."}', method="POST"))
    with pytest.raises(BackupInProgressError, match="Nope") as caught:
        await client.create(1)
    assert caught.value.status == status
    assert fake.count("POST") == 1


async def test_one_at_a_time_is_a_backup_in_progress(fake: FakeVPS, client: BackupsClient) -> None:
    fake.one_at_a_time = True
    await client.create(1)
    with pytest.raises(BackupInProgressError):
        await client.create(1)
    assert (await client.create(2)).server.id == 2


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("A backup of this server is already in progress.", BackupInProgressError),
        ("Another backup is running.", BackupInProgressError),
        ("You already have 10 manual backups.", ManualBackupLimitError),
        ("No.", ManualBackupLimitError),
    ],
)
async def test_where_both_could_be_the_reason_the_words_decide(
    fake: FakeVPS, client: BackupsClient, words: str, kind: type[ApiError]
) -> None:
    for _ in range(9):
        fake.add_backup(1)
    fake.add_backup(1, status="in_progress")
    body = json.dumps({"detail": words}).encode()
    fake.inject(Reply(409, body, method="POST"))
    with pytest.raises(kind):
        await client.create(1)


@pytest.mark.parametrize(("status", "kind"), [(400, BadRequestError), (409, ConflictError)])
async def test_another_refusal_stays_what_it_is(
    fake: FakeVPS, client: BackupsClient, status: int, kind: type[ApiError]
) -> None:
    fake.inject(Reply(status, b'{"non_field_errors": ["The plan is over."]}', method="POST"))
    with pytest.raises(kind, match="The plan is over") as caught:
        await client.create(1)
    assert type(caught.value) is kind


async def test_a_bad_description_is_not_blamed_on_what_the_server_holds(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.add_backup(1, status="in_progress")
    fake.inject(Reply(400, b'{"description": ["Too long."]}', method="POST"))
    with pytest.raises(BadRequestError) as caught:
        await client.create(1, description="x" * 999)
    assert caught.value.field_errors == {"description": ["Too long."]}
    assert fake.count() == 1


@pytest.mark.parametrize("fault", [ServerFault(status=500), Drop(), NotJSON(), Reply(403, b"{}")])
async def test_a_refusal_stays_plain_where_the_look_for_its_reason_fails(
    fake: FakeVPS, client: BackupsClient, fault: Any
) -> None:
    for _ in range(10):
        fake.add_backup(1)
    fake.inject(Reply(400, b'{"detail": "No."}', method="POST"), fault)
    with pytest.raises(BadRequestError) as caught:
        await client.create(1)
    assert type(caught.value) is BadRequestError
    assert caught.value.detail == "No."


async def test_a_server_that_is_not_there_is_not_found(
    fake: FakeVPS, client: BackupsClient
) -> None:
    with pytest.raises(NotFoundError, match=r"Server not found.*Check the id of the server"):
        await client.create(99)
    assert fake.count() == 1


async def test_a_404_of_a_proxy_is_not_blamed_on_the_server_s_id(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(NotJSON(404, method="POST"))
    with pytest.raises(NotFoundError, match="check base_url"):
        await client.create(1)


async def test_a_create_that_a_429_refused_is_sent_again(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(RateLimit(0, times=2))
    assert (await client.create(1)).server.id == 1
    assert fake.count("POST") == 3
    assert len(fake.backups) == 16


async def test_a_forbidden_create_is_plainly_forbidden(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.forbid()
    with pytest.raises(PermissionDeniedError):
        await client.create(1)
    assert fake.count() == 1


# --- delete, restore -----------------------------------------------------------------------------


async def test_delete_removes_the_backup(fake: FakeVPS, client: BackupsClient) -> None:
    await client.delete(7)
    assert 7 not in [backup["id"] for backup in fake.backups]
    assert [seen.target for seen in fake.requests] == ["/api/v1/backups/7/"]


async def test_a_missing_backup_is_not_found_unless_that_is_fine(
    fake: FakeVPS, client: BackupsClient
) -> None:
    with pytest.raises(NotFoundError, match="Backup not found"):
        await client.delete(99)
    await client.delete(99, missing_ok=True)
    assert fake.count("DELETE", status=404) == 2


async def test_missing_ok_hides_no_other_error(fake: FakeVPS, client: BackupsClient) -> None:
    fake.forbid()
    with pytest.raises(PermissionDeniedError):
        await client.delete(7, missing_ok=True)


async def test_gone_at_the_second_attempt_means_that_the_first_worked(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(Drop(when="after", times=1))
    await client.delete(7)
    assert fake.count("DELETE") == 2
    assert len(fake.backups) == 14


@pytest.mark.parametrize(
    ("reply", "message", "data"),
    [
        ((202, {"message": "On its way."}), "On its way.", {"message": "On its way."}),
        ((200, {"detail": "Started", "job": 7}), "Started", {"detail": "Started", "job": 7}),
        ((201, [1, 2]), None, [1, 2]),
        ((200, "ok"), None, "ok"),
        ((204, None), None, None),
        ((200, b""), None, None),
        ((200, b"Started."), None, None),
    ],
)
async def test_a_restore_is_accepted_with_any_2xx_and_any_body(
    fake: FakeVPS,
    client: BackupsClient,
    reply: tuple[int, Any],
    message: str | None,
    data: object,
) -> None:
    fake.restore_reply = reply
    backup = next(backup for backup in fake.backups if backup["server"]["id"] == 3)
    restore = await client.restore(3, backup["id"])
    assert (restore.server_id, restore.backup_id) == (3, backup["id"])
    assert (restore.status, restore.message, restore.data) == (reply[0], message, data)
    assert fake.restores == [(3, backup["id"])]
    assert [(seen.method, seen.path) for seen in fake.requests] == [
        ("GET", "/api/v1/backups/"),
        ("POST", "/api/v1/servers/3/restore/"),
    ]


PAGES = {
    "a login page": http(200, b"<p>Log in</p>", Content_Type="text/html; charset=utf-8"),
    "a page in XHTML": http(200, b"Log in", Content_Type="application/xhtml+xml"),
    "a page without a type": http(202, b"\xef\xbb\xbf \n<!DOCTYPE html><title>Log in</title>"),
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("verb", ["delete", "restore"])
async def test_a_page_of_html_is_no_answer_of_the_api_whatever_its_status(
    verb: str, page: str
) -> None:
    async with (
        RawServer(lambda _: PAGES[page]).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once()) as client,
    ):
        with pytest.raises(InvalidResponseError, match=r"HTML.*Log in") as caught:
            await VERBS[verb](client)
    assert caught.value.in_doubt
    assert "before you" in caught.value.hint
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        http(200, b"", Content_Type="text/html"),
        http(204, b"", Content_Type="text/html"),
        http(200, b'{"detail": "<html>"}', Content_Type="text/html"),
        http(200, b"<html>")[:-3],
        http(200, b"OK", Content_Type="text/plain"),
    ],
    ids=["empty", "no content", "JSON by its bytes", "cut", "plain"],
)
@pytest.mark.parametrize("verb", ["delete", "restore"])
async def test_a_2xx_without_a_page_is_success_by_its_status(verb: str, reply: bytes) -> None:
    async with (
        RawServer(lambda _: reply, then_close=True).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once()) as client,
    ):
        await VERBS[verb](client)
    assert len(server.requests) == 1


@pytest.mark.parametrize("missing_ok", [False, True])
@pytest.mark.parametrize("body", [b"<html>nginx</html>", b"no route"], ids=repr)
async def test_a_404_with_another_text_does_not_say_that_the_backup_is_gone(
    fake: FakeVPS, client: BackupsClient, body: bytes, missing_ok: bool
) -> None:
    fake.inject(Reply(404, body, method="DELETE"))
    with pytest.raises(NotFoundError, match=r"that is no JSON.*base_url.*proxy") as caught:
        await client.delete(7, missing_ok=missing_ok)
    assert not caught.value.from_api
    assert not caught.value.in_doubt


@pytest.mark.parametrize("body", [b'{"detail": "Gone."}', b'["Gone."]', b' {"detail": "Go', b""])
async def test_a_404_with_json_or_nothing_is_the_word_of_the_api(
    fake: FakeVPS, client: BackupsClient, body: bytes
) -> None:
    fake.inject(Reply(404, body, method="DELETE"))
    await client.delete(7, missing_ok=True)
    with pytest.raises(NotFoundError) as caught:
        await client.delete(7)
    assert caught.value.from_api
    assert caught.value.hint == NotFoundError.hint


async def test_a_404_without_json_after_a_lost_answer_is_in_doubt(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(Drop(times=1), NotJSON(404, method="DELETE"))
    with pytest.raises(NotFoundError) as caught:
        await client.delete(7)
    assert caught.value.in_doubt
    assert 7 in [backup["id"] for backup in fake.backups]


async def test_a_restore_from_another_server_s_backup_is_not_found(
    fake: FakeVPS, client: BackupsClient
) -> None:
    backup = next(backup for backup in fake.backups if backup["server"]["id"] == 3)
    with pytest.raises(NotFoundError):
        await client.restore(1, backup["id"])
    assert fake.count("POST") == 0
    with pytest.raises(NotFoundError):
        await client.restore(1, backup["id"], check=False)
    assert fake.count("POST") == 1
    assert fake.restores == []


@pytest.mark.parametrize("status", ["in_progress", "failed", "archived"])
async def test_a_backup_that_is_not_completed_is_not_restored(
    fake: FakeVPS, client: BackupsClient, status: str
) -> None:
    backup = fake.add_backup(3, status=status)
    with pytest.raises(NotRestorableError, match=f"{backup['id']} is '{status}'") as caught:
        await client.restore(3, backup["id"])
    assert (caught.value.ref.id, caught.value.status) == (backup["id"], status)
    assert fake.count("POST") == 0


MAY_RUN = "The restore may be running: look at the server before you restore it again"


@pytest.mark.parametrize(
    "answer",
    [None, http(503, b"{}"), http(408, b"{}"), b"SSH-2.0", http(200, b"<html>")],
    ids=["cut", "503", "408", "no HTTP", "a page"],
)
async def test_a_restore_in_doubt_says_to_look_at_the_server_first(answer: bytes | None) -> None:
    async with (
        RawServer(lambda _: answer).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once()) as client,
    ):
        with pytest.raises(VPSBackupsError) as caught:
            await client.restore(1, 1, check=False)
    assert (caught.value.in_doubt, caught.value.hint) == (True, MAY_RUN)


async def test_a_restore_that_had_no_time_left_after_it_was_sent_says_so(fake: FakeVPS) -> None:
    fake.inject(Latency(600, method="POST"))
    timeouts = Timeouts(attempt=0.1, deadline=0.1)
    async with BackupsClient(fake.token, base_url=fake.url, timeouts=timeouts) as client:
        with pytest.raises(DeadlineExceededError) as caught:
            await client.restore(3, 1, check=False)
    assert caught.value.hint == MAY_RUN


@pytest.mark.parametrize(
    "answer", [http(301, b"", Location="/x"), http(404, b"{}")], ids=["redirect", "404"]
)
async def test_a_restore_that_was_refused_says_nothing_of_one_that_runs(answer: bytes) -> None:
    async with (
        RawServer(lambda _: answer).running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        with pytest.raises(VPSBackupsError) as caught:
            await client.restore(1, 1, check=False)
    assert caught.value.hint == type(caught.value).hint


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"success": False, "error": "The server is locked."}, "The server is locked."),
        ({"success": False, "message": "Not now."}, "Not now."),
        ({"success": False}, "without a reason"),
        ({"error": {"code": "locked"}}, "code: locked"),
        ({"success": True, "error": ["locked"], "message": "Started"}, "locked"),
    ],
    ids=["both", "a message", "no reason", "an object", "a list"],
)
@pytest.mark.parametrize("verb", ["delete", "restore"])
async def test_a_2xx_that_tells_of_a_failure_is_one(
    verb: str, body: dict[str, Any], words: str
) -> None:
    async with (
        RawServer(lambda _: http(200, json.dumps(body).encode())).running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        with pytest.raises(InvalidResponseError, match=f"tells of a failure: '{words}'") as caught:
            await VERBS[verb](client)
    assert caught.value.in_doubt
    assert "before you" in caught.value.hint


@pytest.mark.parametrize(
    "body",
    [{"success": True, "error": None}, {"error": ""}, {"error": False}, {"success": 0}, [False]],
    ids=repr,
)
async def test_a_2xx_with_an_empty_error_is_success(
    fake: FakeVPS, client: BackupsClient, body: Any
) -> None:
    fake.restore_reply = (200, body)
    assert (await client.restore(3, 3, check=False)).data == body


async def test_a_restore_without_a_check_needs_no_list(
    fake: FakeVPS, client: BackupsClient
) -> None:
    backup = fake.add_backup(3, status="archived")
    fake.inject(ServerFault(503, method="GET"))
    assert (await client.restore(3, backup["id"], check=False)).backup_id == backup["id"]
    assert fake.count() == 1


# --- Bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
async def test_a_bad_id_is_a_value_error_before_any_request(
    fake: FakeVPS, client: BackupsClient, bad: Any
) -> None:
    calls = [client.get(bad), client.create(bad), client.delete(bad)]
    calls += [client.restore(bad, 1), client.restore(1, bad)]
    calls += [client.get(1, server_id=bad)] if bad is not None else []
    for call in calls:
        with pytest.raises(ValueError, match=r"(backup|server)_id must be a positive int"):
            await call
    assert not fake.requests


@pytest.mark.parametrize("bad", [5, b"x", "half a character: \ud800"], ids=repr)
async def test_a_bad_description_is_a_value_error_before_any_request(
    fake: FakeVPS, client: BackupsClient, bad: Any
) -> None:
    with pytest.raises(ValueError, match=r"description|JSON"):
        await client.create(1, description=bad)
    assert not fake.requests
