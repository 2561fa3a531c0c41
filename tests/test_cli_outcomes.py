"""`--ndjson`: one object for each item; `--not-made-to`: servers that are safe to run again."""

import asyncio
import json
import os
import re
import shlex
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import Ended, Here, call, start

from vpsbackups_async.cli.not_made import is_certain
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    BackupInProgressError,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    InvalidResponseError,
    ManualBackupLimitError,
    NotAttemptedError,
    RateLimitedError,
    ServerError,
    TransportError,
)
from vpsbackups_async.testing import FakeVPS, Latency, Reply

AGAIN = r"vpsbackups create --unless-newer-than 2\d{3}-\d\d-\d\dT\d\d:\d\dZ"


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=30, backup_seconds=0, clock=time.time) as server:
        monkeypatch.setenv("VPS_API_TOKEN", server.token)
        monkeypatch.setenv("VPS_API_URL", server.url)
        yield server


def outcomes(ended: Ended) -> dict[Any, dict[str, Any]]:
    """The objects by their keys, each of which comes once."""
    found = [json.loads(line) for line in ended.lines]
    fields = {"key", "server_id", "ok", "backup", "error", "seconds"}
    assert all(set(one) - {"deleted", "in_doubt", "dry_run", "reason"} == fields for one in found)
    assert all(one["ok"] == (one["error"] is None) for one in found)
    ids = [one[name] for one in found for name in ("key", "server_id")]
    assert all(number is None or type(number) is int for number in ids)
    by_key = {one["key"]: one for one in found}
    assert len(by_key) == len(found)
    return by_key


# --- --ndjson ------------------------------------------------------------------------------------


async def test_each_server_of_a_create_has_one_object(fake: FakeVPS, run: Here) -> None:
    ended = await run("create", "1", "2", "404", "--ndjson", fake=fake)
    found = outcomes(ended)
    assert ended.code == 1
    assert set(found) == {1, 2, 404}
    assert found[1]["backup"]["server"] == {"id": 1, "name": "server-0001"}
    assert found[1]["backup"]["status"] == "in_progress"
    assert found[404]["backup"] is None
    assert found[404]["error"]["type"] == "NotFoundError"
    assert found[404]["error"]["text"].startswith("404 Server not found.")
    assert all(0 < one["seconds"] < 60 for one in found.values())


async def test_a_wait_that_times_out_has_the_backup_that_was_started(
    fake: FakeVPS, run: Here
) -> None:
    fake.backup_seconds = lambda made: 0 if made["server"]["id"] == 1 else 600
    ended = await run("create", "1", "2", "-w", "--timeout", "0", "--ndjson", fake=fake)
    found = outcomes(ended)
    assert found[2]["error"]["type"] == "WaitTimeoutError"
    assert found[2]["backup"]["server"]["id"] == 2
    again = await run(
        "wait", f"{found[2]['backup']['id']}:2", "--timeout", "0", "--ndjson", fake=fake
    )
    ((key, one),) = outcomes(again).items()
    assert (key, one["server_id"]) == (found[2]["backup"]["id"], 2)


async def test_a_wait_that_does_not_succeed_has_the_backup_as_it_was_last_seen(
    fake: FakeVPS, run: Here
) -> None:
    fake.add_backup(1, status="in_progress")
    fake.add_backup(2, status="in_progress")
    fake.on_request = lambda _: fake.finish(2, "failed") if fake.count("GET") > 1 else None
    options = ("--timeout", "0", "--ndjson")
    (one,) = outcomes(await run("wait", "1", *options, fake=fake)).values()
    assert one["error"]["type"] == "WaitTimeoutError"
    seen = one["backup"]
    assert (seen["id"], seen["server"]["id"], seen["status"]) == (1, 1, "in_progress")
    assert one["server_id"] == 1  # which the arguments do not tell
    (one,) = outcomes(await run("wait", "2:2", "--ndjson", fake=fake)).values()
    assert (one["error"]["type"], one["backup"]["status"]) == ("BackupFailedError", "failed")
    (one,) = outcomes(await run("wait", "99:1", *options, fake=fake)).values()
    assert (one["error"]["type"], one["backup"]) == ("WaitTimeoutError", None)


async def test_a_backup_that_is_created_as_failed_is_a_failure(fake: FakeVPS, run: Here) -> None:
    made = fake.add_backup(1, status="failed")
    fake.inject(Reply(201, json.dumps(made).encode(), method="POST"))
    ended = await run("create", "1", "--ndjson", fake=fake)
    one = outcomes(ended)[1]
    assert (ended.code, one["error"]["type"]) == (1, "BackupFailedError")
    assert one["backup"]["status"] == "failed"
    ended = await run("create", "1", fake=fake)
    assert (ended.code, ended.out) == (1, "")
    assert "backup 1 of server 1: the backup failed" in ended.err
    assert "\n0 started, 1 failed, in " in ended.err


@pytest.mark.parametrize("command", ["wait --timeout 2s", "delete -y"])
async def test_one_id_of_two_servers_has_an_object_for_each(
    command: str, fake: FakeVPS, run: Here
) -> None:
    fake.add_backup(1)
    ended = await run(*command.split(), "1:1", "1:2", "1", "--ndjson", fake=fake)
    found = {one["server_id"]: one for one in map(json.loads, ended.lines)}
    assert (len(ended.lines), found[1]["ok"], found[2]["ok"]) == (2, True, False)
    assert {one["key"] for one in found.values()} == {1}


async def test_only_the_wait_of_the_server_that_has_none_is_named_to_go_on_with(
    fake: FakeVPS, run: Here
) -> None:
    fake.add_backup(1)
    for refs in (("1:1", "1:2"), ("1:2", "1:1")):
        ended = await run("wait", *refs, "--timeout", "1s", fake=fake)
        assert (ended.code, ended.lines) == (4, ["1:1"])
        assert ended.err.splitlines()[-1] == "vpsbackups wait 1:2"


async def test_an_interrupted_wait_has_the_backup_as_it_was_last_seen(fake: FakeVPS) -> None:
    fake.add_backup(1, status="in_progress")
    looked = asyncio.Event()
    fake.on_request = lambda _: fake.count("GET") > 1 and looked.set()
    process = await start("wait", "1:1", "99:1", "--ndjson", fake=fake)
    await looked.wait()
    process.send_signal(signal.SIGINT)
    found = outcomes(Ended(process.returncode, *await process.communicate()))
    assert {one["error"]["type"] for one in found.values()} == {"Interrupted"}
    assert {one["backup"] and one["backup"]["status"] for one in found.values()} == {
        "in_progress", None,
    }  # fmt: skip


async def test_a_backup_that_fails_after_its_create_is_told_as_failed(
    fake: FakeVPS, run: Here
) -> None:
    fake.fails = {3}
    ended = await run("create", "3", "-w", "--ndjson", fake=fake)
    (one,) = outcomes(ended).values()
    assert (one["error"]["type"], one["backup"]["status"]) == ("BackupFailedError", "failed")


async def test_a_delete_tells_also_what_was_not_there(fake: FakeVPS, run: Here) -> None:
    for _ in range(2):
        fake.add_backup(1)
    fake.inject(Reply(403, b'{"detail": "Not yours."}', method="DELETE", path="/2/"))
    ended = await run("delete", "1:1", "2:1", "99", "-y", "--ndjson", fake=fake)
    found = outcomes(ended)
    assert ended.code == 1
    assert {key: one["ok"] for key, one in found.items()} == {
        1: True, 2: False, 99: False,
    }  # fmt: skip
    assert found[1]["backup"]["id"] == 1
    assert found[2]["error"]["type"] == "PermissionDeniedError"
    assert found[99]["error"]["type"] == "NotInListError"
    assert found[99]["seconds"] == 0


async def test_a_restore_has_one_object_whether_it_fails_or_not(fake: FakeVPS, run: Here) -> None:
    fake.add_backup(1)
    ended = await run("restore", "1", "1", "-y", "--ndjson", fake=fake)
    assert (ended.code, outcomes(ended)[1]["ok"]) == (0, True)
    fake.inject(Reply(409, b'{"detail": "Busy."}', method="POST"))
    ended = await run("restore", "1", "1", "-y", "--ndjson", fake=fake)
    assert (ended.code, outcomes(ended)[1]["error"]["type"]) == (1, "ConflictError")
    assert "409 Busy." in ended.err


@pytest.mark.parametrize(
    ("arguments", "ids", "kind", "words"),
    [
        ("1 99", (99, 1), "NotInListError", "backup 99 is not in the list"),
        ("web-9 1", (1, None), "RefusedError", "no server has the name 'web-9'"),
        ("2 1:1", (1, 1), "RefusedError", "backup 1 is of server 1"),
        ("2 --latest", (None, 2), "RefusedError", "server 2 has no completed backup"),
        ("web-9 --latest", (None, None), "RefusedError", "no server has the name 'web-9'"),
        ("1 1 --expect-name no", (1, 1), "RefusedError", "server 1 is named 'server-0001'"),
    ],
)
async def test_a_restore_that_fails_before_anything_is_sent_has_an_object(
    arguments: str,
    ids: tuple[int | None, int | None],
    kind: str,
    words: str,
    fake: FakeVPS,
    run: Here,
) -> None:
    fake.add_backup(1)
    ended = await run("restore", *arguments.split(), "-y", "--ndjson", fake=fake)
    (one,) = outcomes(ended).values()
    assert (ended.code, one["key"], one["server_id"]) == (1, *ids)
    assert one["error"]["type"] == kind
    assert one["error"]["text"].startswith(words)
    assert words in ended.err
    assert fake.count("POST") == 0


async def test_a_restore_that_is_interrupted_before_anything_is_sent_has_an_object(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(600, method="GET"))
    looking = asyncio.Event()
    fake.on_request = lambda _: looking.set()
    process = await start("restore", "1", "1", "-y", "--ndjson", fake=fake)
    await looking.wait()
    process.send_signal(signal.SIGINT)
    ended = Ended(process.returncode, *await process.communicate())
    assert outcomes(ended)[1]["error"]["type"] == "NotAttemptedError"


@pytest.fixture
def three(fake: FakeVPS) -> tuple[str, ...]:
    """The words of a prune that deletes two of the three backups of server 1."""
    for day in (1, 2, 3):
        fake.add_backup(1, created_at=f"2026-01-0{day}T00:00:00Z")
    return ("prune", "-s", "1", "--keep-last", "1", "--ndjson", "--max-fraction", "1")


async def test_a_prune_tells_the_same_of_what_it_would_do_and_of_what_it_does(
    three: tuple[str, ...], fake: FakeVPS, run: Here
) -> None:
    ended = await run(*three, fake=fake)
    would = outcomes(ended)
    assert (ended.code, fake.count("DELETE")) == (0, 0)
    assert all(one["dry_run"] is True and one["ok"] for one in would.values())
    found = outcomes(await run(*three, "--apply", fake=fake))
    assert set(found) == set(would) == {1, 2}
    assert all("dry_run" not in one and one["seconds"] > 0 for one in found.values())
    for key, one in found.items():
        assert {**would[key], "seconds": one["seconds"]} == {**one, "dry_run": True}
    assert found[1]["reason"]
    assert found[1]["backup"]["created_at"] == "2026-01-01T00:00:00Z"


async def test_a_prune_that_is_refused_tells_so_of_each_backup_whether_it_is_applied_or_not(
    three: tuple[str, ...], fake: FakeVPS, run: Here
) -> None:
    for more in ((), ("--apply",)):
        ended = await run(*three, "--max-deletions", "1", *more, fake=fake)
        found = outcomes(ended)
        assert (ended.code, set(found), fake.count("DELETE")) == (1, {1, 2}, 0)
        assert {one["error"]["type"] for one in found.values()} == {"PruneRefusedError"}
        assert {one.get("dry_run", False) for one in found.values()} == {not more}


@pytest.mark.parametrize("more", [(), ("--apply",)], ids=["plan", "applied"])
async def test_a_server_of_which_a_prune_can_decide_nothing_has_an_object(
    more: tuple[str, ...], three: tuple[str, ...], fake: FakeVPS, run: Here
) -> None:
    fake.inject(Reply(400, b'{"detail": "No."}', method="GET", query={"server_id": 2}))
    ended = await run(*three, "-s", "2", *more, fake=fake)
    found = outcomes(ended)
    assert (ended.code, set(found)) == (1, {1, 2, None})
    assert (found[None]["server_id"], found[None]["ok"]) == (2, False)
    assert found[None]["error"]["type"] == "BadRequestError"
    assert found[None]["error"]["text"] in ended.err


async def test_a_server_that_a_policy_does_not_fit_is_refused_by_the_policy(
    three: tuple[str, ...], fake: FakeVPS, run: Here
) -> None:
    ended = await run(*three, "--keep-daily", "10", fake=fake)
    assert outcomes(ended)[None]["error"]["type"] == "PruneRefusedError"


async def test_a_prune_counts_the_servers_that_failed_at_its_end(
    three: tuple[str, ...], fake: FakeVPS, run: Here
) -> None:
    fake.inject(Reply(500, b"{}", method="GET", query={"server_id": 2}))
    fake.inject(Reply(404, b"{}", method="GET", query={"server_id": 3}))
    more = ("-s", "2", "-s", "3")
    ended = await run(*three, *more, fake=fake)
    assert ended.err.splitlines()[-1].endswith("--apply does it; 2 servers failed")
    ended = await run(*three, *more, "--apply", fake=fake)
    assert ended.err.splitlines()[-1] == "2 deleted, 2 servers failed"


@pytest.mark.parametrize("more", [(), ("--apply",)], ids=["plan", "applied"])
async def test_a_prune_whose_token_is_refused_has_an_object_for_each_server(
    more: tuple[str, ...], three: tuple[str, ...], fake: FakeVPS, run: Here
) -> None:
    fake.revoke()
    ended = await run(*three, "-s", "2", *more, fake=fake)
    found = [json.loads(line) for line in ended.lines]
    assert (ended.code, [one["server_id"] for one in found]) == (3, [1, 2])
    assert {(one["key"], one["error"]["type"]) for one in found} == {(None, "AuthenticationError")}
    assert {one.get("dry_run", False) for one in found} == {not more}
    ended = await run("prune", "--all", "--keep-last", "1", "--ndjson", fake=fake)
    assert outcomes(ended)[None]["server_id"] is None


async def test_a_prune_that_is_interrupted_while_it_plans_has_an_object_for_each_server(
    three: tuple[str, ...], fake: FakeVPS
) -> None:
    fake.inject(Latency(600, method="GET"))
    begun = asyncio.Event()
    fake.on_request = lambda _: begun.set()
    process = await start(*three, fake=fake)
    await begun.wait()
    process.send_signal(signal.SIGINT)
    ended = Ended(process.returncode, *await process.communicate())
    assert outcomes(ended)[None]["error"]["type"] == "NotAttemptedError"


async def test_a_rotation_tells_what_it_made_and_deleted(fake: FakeVPS, run: Here) -> None:
    for day in (1, 2, 3):
        fake.add_backup(1, description="[job:x]", created_at=f"2026-01-0{day}T00:00:00Z")
    options = [
        "rotate",
        "-s",
        "1",
        "-s",
        "404",
        "--keep-last",
        "3",
        "--job",
        "x",
        "--ndjson",
        "--timeout",
        "20",
    ]
    would = outcomes(await run(*options, "--dry-run", fake=fake))
    assert (would[1]["backup"], would[1]["deleted"]) == (None, [1])
    assert all(one["dry_run"] is True for one in would.values())
    found = outcomes(await run(*options, fake=fake))
    assert found[1]["ok"]
    assert (found[1]["backup"]["id"], found[1]["deleted"]) == (4, [1])
    assert not any("dry_run" in one for one in found.values())
    assert found[404]["error"]["type"] == "NotFoundError"


async def test_what_the_server_says_is_escaped(fake: FakeVPS, run: Here) -> None:
    fake.inject(Reply(400, json.dumps({"detail": "\x1b[2J\u2028no"}).encode(), method="POST"))
    ended = await run("create", "1", "--ndjson", fake=fake)
    assert "\x1b" not in ended.out
    assert len(ended.lines) == 1


async def test_an_interrupted_create_tells_of_every_server_once(fake: FakeVPS) -> None:
    fake.backup_seconds = 600
    fake.inject(Latency(0.3, method="POST"))
    enough = asyncio.Event()
    fake.on_request = lambda _: fake.count("POST") >= 3 and enough.set()
    servers = [str(number) for number in range(1, 31)]
    process = await start("create", "-w", "--ndjson", "--concurrency", "3", *servers, fake=fake)
    await enough.wait()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    found = outcomes(Ended(process.returncode, out, err))
    assert process.returncode == 130
    assert set(found) == set(range(1, 31))
    begun = {backup["server"]["id"] for backup in fake.backups}
    told = {key for key, one in found.items() if one["error"]["type"] == "Interrupted"}
    assert told == begun
    assert {found[key]["backup"]["server"]["id"] for key in told} == begun
    assert {one["error"]["type"] for key, one in found.items() if key not in told} == {
        "NotAttemptedError"
    }


async def interrupted(fake: FakeVPS, method: str, *arguments: str) -> Ended:
    """Run the command, and interrupt it at its second request of this method, or the first POST."""
    fake.inject(Latency(600, method=method, after=0 if method == "POST" else 1))
    begun = asyncio.Event()
    wanted = 1 if method == "POST" else 2
    fake.on_request = lambda _: fake.count(method) >= wanted and begun.set()
    process = await start(*arguments, fake=fake)
    await begun.wait()
    process.send_signal(signal.SIGINT)
    return Ended(process.returncode, *await process.communicate())


@pytest.mark.parametrize("command", ["delete -y --from {file}", "prune -s 1 --keep-last 1 --apply"])
async def test_interrupted_deletions_are_told_one_by_one(
    command: str, fake: FakeVPS, tmp_path: Path
) -> None:
    file = tmp_path / "ids"
    for day in range(1, 6):
        fake.add_backup(1, created_at=f"2026-01-0{day}T00:00:00Z")
    file.write_text("1:1 2:1 3:1 4:1\n")
    options = "--ndjson --max-fraction 1" if command.startswith("prune") else "--ndjson"
    words = f"{command.format(file=file)} {options}".split()
    ended = await interrupted(fake, "DELETE", *words)
    found = outcomes(ended)
    assert set(found) == {1, 2, 3, 4}
    assert all(one["backup"] is not None for one in found.values())
    kinds = [one["error"] and one["error"]["type"] for one in found.values()]
    assert "Interrupted" in kinds
    assert re.search(r"interrupted: \d of 4 deletions were confirmed before", ended.err)


def add_nights(fake: FakeVPS, count: int) -> None:
    for day in range(1, count + 1):
        fake.add_backup(1, description="[job:x]", created_at=f"2026-01-{day:02}T00:00:00Z")


ROTATE = ("rotate", "-s", "1", "-s", "2", "--job", "x", "--ndjson", "--keep-last")


async def test_a_rotation_interrupted_in_its_deletions_tells_what_is_gone_and_what_may_be(
    fake: FakeVPS,
) -> None:
    add_nights(fake, 5)
    ended = await interrupted(fake, "DELETE", *ROTATE, "4")
    one = outcomes(ended)[1]
    assert one["error"]["type"] == "Interrupted"
    assert (one["backup"]["id"], one["backup"]["status"]) == (6, "completed")
    assert (one["deleted"], one["in_doubt"]) == ([1], [2])
    assert "6:1" not in ended.err.partition("may still be running")[2]


async def test_a_rotation_interrupted_before_it_created_tells_what_may_be_gone(
    fake: FakeVPS,
) -> None:
    add_nights(fake, 10)
    fake.add_backup(2)
    fake.inject(Latency(600, method="DELETE"))
    begun = asyncio.Event()
    fake.on_request = lambda _: fake.count("DELETE") >= 1 and begun.set()
    process = await start(*ROTATE, "9", "--make-room", "-s", "404", fake=fake)
    await begun.wait()
    process.send_signal(signal.SIGINT)
    ended = Ended(process.returncode, *await process.communicate())
    one = outcomes(ended)[1]
    assert (one["error"]["type"], one["backup"]) == ("Interrupted", None)
    assert (one["deleted"], one["in_doubt"]) == ([], [1])
    assert "may have deleted 1:1" in ended.err


async def test_a_rotation_whose_second_deletion_failed_tells_the_first(
    fake: FakeVPS, run: Here
) -> None:
    add_nights(fake, 5)
    fake.inject(Reply(403, b"{}", method="DELETE", path="/2/"))
    ended = await run("rotate", "-s", "1", "--job", "x", "--keep-last", "4", "--ndjson", fake=fake)
    one = outcomes(ended)[1]
    assert (one["error"]["type"], one["deleted"]) == ("PermissionDeniedError", [1])
    assert one["backup"]["status"] == "completed"
    assert ended.err.splitlines()[-1] == "0 made, 1 deleted, 1 failed"


@pytest.mark.parametrize("as_outcomes", [(), ("--ndjson",)])
async def test_an_interrupted_delete_names_what_was_deleted_and_what_may_be(
    as_outcomes: tuple[str, ...], fake: FakeVPS
) -> None:
    for _ in range(3):
        fake.add_backup(1)
    hanging = asyncio.Event()
    fake.inject(Latency(600, method="DELETE"))
    fake.on_request = lambda _: fake.count("DELETE") >= 3 and hanging.set()
    process = await start("delete", "-y", "1", "2", "3", *as_outcomes, fake=fake)
    await hanging.wait()
    process.send_signal(signal.SIGINT)
    ended = Ended(process.returncode, *await process.communicate())
    assert "may have deleted 1:1, 2:1, 3:1" in " ".join(ended.err.split())


async def test_an_interrupted_restore_says_that_it_may_have_begun(fake: FakeVPS) -> None:
    fake.add_backup(1)
    ended = await interrupted(fake, "POST", "restore", "1", "1", "-y", "--ndjson")
    assert outcomes(ended)[1]["error"]["type"] == "Interrupted"
    assert "interrupted: the restore of server 1 (server-0001) may have begun" in ended.err


# --- --not-made-to -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "certain"),
    [
        (ApiError(402), True),
        (AuthenticationError(401), True),
        (RateLimitedError(429), True),
        (RateLimitedError(429, attempts=2), True),
        (BackupInProgressError(409, attempts=2), False),
        (ManualBackupLimitError(400, attempts=2), False),
        (NotAttemptedError("stopped"), True),
        (TransportError("refused", False), True),
        (TransportError("cut", True), False),
        (DeadlineExceededError("late", False), True),
        (DeadlineExceededError("late", True), False),
        (ApiError(408), False),
        (ServerError(503), False),
        (ServerError(503, attempts=0), True),
        (InvalidResponseError("no JSON"), False),
        (ServerError(503, method="GET"), True),
        (ApiError(408, method="GET", attempts=3), True),
        (TransportError("cut", True, "GET"), True),
        (DeadlineExceededError("late", True, "GET"), True),
        (InvalidResponseError("no JSON", method="GET"), True),
        (CreateOutcomeUnknownError(), False),
        (RuntimeError("of a limiter"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_only_what_was_refused_or_never_sent_has_certainly_made_nothing(
    error: Exception, certain: bool
) -> None:
    assert is_certain(error) == certain


async def test_only_servers_that_certainly_got_no_backup_are_written(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    fake.fails = {3}
    fake.backup_seconds = lambda made: 600 if made["server"]["id"] == 4 else 0
    file = tmp_path / "left.txt"
    file.write_text("7\n")
    options = ("--timeout", "1", "--not-made-to", str(file))
    ended = await run("create", "-w", "1", "404", "3", "4", "405", *options, fake=fake)
    assert ended.code == 1
    assert file.read_text() == "404\n405\n"
    assert ":4\n" in ended.err.partition("1 may still be running; to wait for them:\n")[2]


async def test_a_server_that_may_have_got_a_backup_is_named_with_what_to_do(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    fake.inject(Reply(503, b"{}", method="POST", when="after"))
    fake.inject(Reply(403, b"{}", method="GET"))  # no look can tell
    file = tmp_path / "left"
    options = ("-d", "It's nightly", "--not-made-to", str(file))
    ended = await run("create", "5", *options, fake=fake)
    assert (ended.code, file.read_text()) == (1, "")
    first, command = ended.err.splitlines()[-2:]
    assert first == (
        "1 may have got a backup; a minute later, this looks first, and makes none where one is "
        "there:"
    )
    fake.clear_faults()
    again = await run(*shlex.split(command)[1:], fake=fake)
    assert (again.code, again.lines) == (0, ["1:5"])
    assert len(fake.backups) == 1


async def test_a_server_that_is_busy_after_a_429_may_be_so_by_this_very_create(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    fake.backup_seconds = 600
    fake.one_at_a_time = True
    pause = {"Retry-After": "0"}
    fake.inject(Reply(429, b"{}", method="POST", when="after", headers=pause, times=1))
    file = tmp_path / "left"
    options = ("--concurrency", "1", "--not-made-to", str(file))
    ended = await run("create", "5", "404", *options, fake=fake)
    assert (ended.code, len(fake.backups)) == (1, 1)
    assert "409 A backup of this server is already in progress. " in ended.err
    assert file.read_text() == "404\n"
    assert re.fullmatch(AGAIN + " 5", ended.err.splitlines()[-1])


async def test_very_many_servers_that_may_have_got_a_backup_are_not_listed(
    fake: FakeVPS, run: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpsbackups_async.cli.pasting.AT_MOST", 1)
    fake.inject(Reply(503, b"{}", method="POST"))
    fake.inject(Reply(403, b"{}", method="GET"))
    ended = await run("create", "5", "6", fake=fake)
    again = AGAIN + "  # and the same servers as before"
    assert re.fullmatch(again, ended.err.splitlines()[-1])


async def test_after_an_interruption_the_file_has_those_that_were_never_begun(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    fake.inject(Latency(0.3, method="POST"))
    enough = asyncio.Event()
    fake.on_request = lambda _: fake.count("POST") >= 4 and enough.set()
    todo = tmp_path / "todo.txt"
    todo.write_text("\n".join(map(str, range(1, 31))))
    same = ("--servers-from", str(todo), "--not-made-to", str(todo))
    process = await start("create", "--concurrency", "4", *same, fake=fake)
    await enough.wait()
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 143
    made = {backup["server"]["id"] for backup in fake.backups}
    left = set(map(int, todo.read_text().split()))
    assert (made & left, made | left) == (set(), set(range(1, 31)))
    fake.on_request = None
    fake.clear_faults()
    assert (await run("create", *same, fake=fake)).code == 0
    assert sorted(backup["server"]["id"] for backup in fake.backups) == list(range(1, 31))
    assert todo.read_text() == ""


async def test_all_servers_of_an_account_are_known_before_the_first_backup(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    file = tmp_path / "left"
    fake.on_request = lambda _: fake.count("POST") >= 3 and fake.revoke()
    options = ("--concurrency", "1", "--not-made-to", str(file))
    ended = await run("create", "--all", *options, fake=fake)
    assert ended.code == 3
    made = {backup["server"]["id"] for backup in fake.backups}
    left = set(map(int, file.read_text().split()))
    assert made
    assert (made & left, made | left) == (set(), set(range(1, 31)))


async def test_what_a_run_without_failures_leaves_is_nothing_to_do(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    file = tmp_path / "left"
    assert (await run("create", "1", "--not-made-to", str(file), fake=fake)).code == 0
    again = ("--servers-from", str(file), "--not-made-to", str(file))
    ended = await run("create", *again, fake=fake)
    assert (ended.code, ended.out, fake.count("POST")) == (0, "", 1)
    assert ended.err == f"{file} names no server: nothing was started\n"
    assert (await run("rotate", "--job", "j", "--keep-last", "1", *again[:2], fake=fake)).code == 0
    assert (await run("create", "2", *again[:2], fake=fake)).lines == ["2:2"]


async def test_a_file_that_cannot_be_written_is_a_usage_error_and_nothing_is_sent(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    ended = await run("create", "1", "--not-made-to", str(tmp_path / "no" / "file"), fake=fake)
    assert (ended.code, fake.count()) == (2, 0)
    assert "--not-made-to: cannot write" in ended.err


async def test_settings_that_are_wrong_leave_the_file_alone(tmp_path: Path, run: Here) -> None:
    file = tmp_path / "todo"
    file.write_text("1\n2\n")
    same = ("--servers-from", str(file), "--not-made-to", str(file))
    assert (await run("create", *same)).code == 2
    assert file.read_text() == "1\n2\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
async def test_a_full_disk_is_said_and_the_servers_are_named(fake: FakeVPS, run: Here) -> None:
    ended = await run("create", "1", "404", "--not-made-to", "/dev/full", fake=fake)
    assert ended.code == 1
    assert ended.err.splitlines()[-3:] == [
        "1 server certainly got no backup:",
        "vpsbackups create 404",
        "error: No space left on device: /dev/full",
    ]


# --- --unless-newer-than, delete --from -----------------------------------------------------------


async def test_a_server_with_a_recent_backup_gets_none(fake: FakeVPS, run: Here) -> None:
    first = await run("create", "1", "-d", "Nightly", fake=fake)
    options = ("-d", "Nightly", "--unless-newer-than", "20h")
    ended = await run("create", "1", "2", *options, fake=fake)
    assert ended.code == 0
    assert first.lines[0] in ended.lines
    assert ended.err.startswith("1 started, 1 there already, in ")
    waited = await run("create", "1", "2", *options, "-w", "--ndjson", fake=fake)
    assert {key: one["backup"]["status"] for key, one in outcomes(waited).items()} == {
        1: "completed", 2: "completed",
    }  # fmt: skip
    assert len(fake.backups) == 2


async def test_a_duration_without_a_unit_is_refused(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    assert await call("create", "1", "--unless-newer-than", "20") == 2
    assert "--unless-newer-than '20' is no time" in capfd.readouterr().err


@pytest.mark.parametrize(("command", "done"), [("delete", "delete"), ("wait", "wait for")])
async def test_an_empty_input_is_no_failure_and_is_said(
    command: str, done: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run(command, "--from", "-", fake=fake, given="# none\n")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"no backup is named: nothing to {done}\n"
    assert (await run(command, "--from", os.devnull, "-q", fake=fake)).err == ""
    assert fake.count() == 0


async def test_what_list_writes_is_what_delete_reads(fake: FakeVPS, run: Here) -> None:
    for number in (1, 2, 3):
        fake.add_backup(number, status="failed" if number < 3 else "completed")
    listed = await run("list", "--status", "failed", fake=fake)
    ended = await run("delete", "--yes", "--from", "-", fake=fake, given=listed.out)
    assert (ended.code, sorted(ended.lines)) == (0, ["1:1", "2:2"])
    assert len(fake.backups) == 1
