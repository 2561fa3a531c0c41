"""`vpsbackups delete` and `restore`: nothing is lost that was not shown and agreed to."""

import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Here, Terminal, TerminalHere, call

from vpsbackups_async.testing import Drop, FakeVPS, Fault, Latency, NotJSON, Reply, SeenRequest


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers={7: "web-7", 8: "db-8"}, backups=2, clock=time.time) as server:
        server.add_backup(7, description="Before the upgrade", size_mb=4100)
        server.add_backup(8, status="in_progress")
        monkeypatch.setenv("VPS_API_TOKEN", server.token)
        monkeypatch.setenv("VPS_API_URL", server.url)
        yield server


def held(fake: FakeVPS) -> list[int]:
    return [backup["id"] for backup in fake.backups]


# --- Where nobody can be asked -------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["delete", "5"], ["restore", "7", "5"]])
async def test_it_refuses_where_nobody_can_be_asked(
    arguments: list[str], fake: FakeVPS, run: Here
) -> None:
    ended = await run(*arguments, fake=fake, given="y\n")
    assert (ended.code, ended.out) == (2, "")
    assert "give --yes" in ended.err
    assert fake.count() == 0


async def test_delete_with_yes_deletes_what_it_found(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    assert await call("delete", "5:7", "1", "5", "--yes") == 0
    assert set(capfd.readouterr().out.split()) == {"5:7", "1:7"}
    assert held(fake) == [2, 3, 4, 6]
    assert await call("delete", "2:7", "99", "3:7", "-y") == 1  # 3 is of 7, 2 of 8
    said = capfd.readouterr()
    assert said.out.split() == ["3:7"]
    assert "backup 2:7 is not there" in said.err
    assert "backup 99 is not there" in said.err
    assert await call("delete", "99", "-y") == 1
    assert held(fake) == [2, 4, 6]


async def test_what_cannot_be_deleted_is_said(fake: FakeVPS, capfd: pytest.CaptureFixture) -> None:
    fake.inject(Reply(403, b'{"detail": "Not yours."}', method="DELETE"))
    assert await call("delete", "5", "-y") == 1
    assert "backup 5:7: 403 Not yours." in capfd.readouterr().err
    fake.revoke()
    assert await call("delete", "5", "-y") == 3
    assert await call("delete") == 2
    assert await call("delete", "--yes", "five") == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "check the URL (VPS_API_URL or --url), and whether a proxy"), (200, "still listed")],
)
async def test_a_page_of_html_is_not_said_to_have_deleted(
    status: int, words: str, fake: FakeVPS, run: Here
) -> None:
    fake.inject(NotJSON(status, method="DELETE"))
    ended = await run("delete", "5", "--yes", fake=fake)
    assert (ended.code, ended.out) == (1, "")
    assert words in ended.err


async def test_restore_with_yes_restores(fake: FakeVPS, capfd: pytest.CaptureFixture) -> None:
    assert await call("restore", "7", "5", "--yes") == 0
    assert capfd.readouterr().out.startswith("server 7 (web-7): Restore has been started.")
    assert fake.restores == [(7, 5)]
    fake.restore_reply = (204, None)
    assert await call("restore", "7", "5:7", "--yes") == 0
    assert capfd.readouterr().out == "server 7 (web-7): the restore has begun\n"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Drop(method="POST", when="after"), "it may have reached the server"),
        (Reply(504, b"{}", method="POST", when="after"), "504"),
        (Reply(200, b'{"success": false, "error": "Locked."}', method="POST"), "Locked."),
    ],
    ids=["cut", "504", "refused"],
)
async def test_a_restore_in_doubt_says_to_look_at_the_server_before_another_one(
    fault: Fault, words: str, fake: FakeVPS, run: Here
) -> None:
    fake.inject(fault)
    ended = await run("restore", "7", "5", "--yes", fake=fake)
    assert (ended.code, ended.out) == (1, "")
    assert words in ended.err
    assert ended.err.splitlines()[-1] == (
        "The restore may be running: look at the server before you restore it again"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["8", "5"], 1, "backup 5 is of server 7 (web-7), not of server 8"),
        (["7", "5:8"], 1, "backup 5 is of server 7 (web-7), not of server 8"),
        (["8", "6"], 1, "backup 6 is in_progress, not completed"),
        (["8", "99"], 1, "backup 99 is not in the list"),
        (["web-9", "5"], 1, "no server has the name 'web-9'"),
    ],
)
async def test_a_restore_that_cannot_be_meant_sends_nothing(
    arguments: list[str], code: int, words: str, fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    assert await call("restore", *arguments, "--yes") == code
    assert words in capfd.readouterr().err
    assert fake.count("POST") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize(
    "command", ["delete 1 2 3 4 -y", "prune -s 7 --keep-last 1 --max-fraction 1 --apply"]
)
async def test_a_full_disk_stops_deletions_and_nobody_is_said_to_have_interrupted_them(
    command: str, fake: FakeVPS, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    for _ in range(3):
        fake.add_backup(7)
    with open("/dev/full", "w") as full:  # noqa: ASYNC230, PTH123  # it is what is printed to
        monkeypatch.setattr(sys, "stdout", full)
        assert await call(*command.split()) == 1
    said = capfd.readouterr().err
    assert re.search(r"stopped: 1 of \d deletions were confirmed before", said), said
    assert "interrupted" not in said


# --- By name, and the latest ----------------------------------------------------------------------


async def test_the_latest_is_the_newest_completed_backup_of_the_server(
    fake: FakeVPS, run: Here
) -> None:
    made = [
        fake.add_backup(7, created_at=f"2026-11-{day}T03:00:00Z", status=status)["id"]
        for day, status in ((20, "completed"), (22, "completed"), (21, "completed"), (23, "failed"))
    ]
    fake.remove_backup(5)
    for number in (1, 2, 3, 4):
        fake.remove_backup(number)
    before = ("--before", "2026-11-21T03:00")
    for server in ("7", "web-7"):
        assert (await run("restore", server, "--latest", "-y", fake=fake)).code == 0
        assert (await run("restore", server, "--latest", *before, "-y", fake=fake)).code == 0
    assert fake.restores == [(7, made[1]), (7, made[0])] * 2
    shown = await run("show", "web-7", "--latest", "--json", fake=fake)
    assert json.loads(shown.out)["id"] == made[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["web-9", "--latest"], 1, "no server has the name 'web-9'"),
        (["web", "--latest"], 1, "no server has the name 'web'"),
        (["WEB-7", "--latest"], 1, "no server has the name 'WEB-7'"),
        (["db-8", "--latest", "--before", "2020-01-01"], 1, "made before 2020-01-01 00:00 UTC"),
        (["twin", "--latest"], 1, "2 servers have the name 'twin': give the id, 21, 22"),
        (["7", "--latest", "--expect-name", "web-8"], 1, "server 7 is named 'web-7', not 'web-8'"),
        (["7", "5", "--latest"], 2, "give its ID, or --latest"),
        (["7"], 2, "give its ID, or --latest"),
        (["7", "5", "--before", "1d"], 2, "--before is of no use without --latest"),
        (["7", "--latest", "--before", "once"], 2, "--before 'once' is neither an age"),
        (["", "--latest"], 2, "the name of a server is empty"),
        (["404", "--latest"], 1, "there is no server 404\n"),
        (["23", "--latest"], 1, "server 23 has no completed backup"),
        (["07", "--latest"], 1, "no server has the name '07'; an id has no leading zeros"),
        (["+7", "--latest"], 1, "no server has the name '+7'; an id has no leading zeros"),
        ([" 7", "--latest"], 1, "no server has the name '7'; an id has no leading zeros"),
        (["\u0667", "--latest"], 1, "no server has the name '\u0667'"),
    ],
)
async def test_a_server_or_backup_that_is_not_certain_is_not_restored(
    arguments: list[str], code: int, words: str, fake: FakeVPS, run: Here
) -> None:
    for number in (21, 22):
        fake.add_server(number, "twin")
        fake.add_backup(number)
    fake.add_server(23, "bare")
    ended = await run("restore", *arguments, "--yes", fake=fake)
    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err
    assert fake.count("POST") == 0


async def test_a_server_is_restored_whose_name_is_the_expected_one(
    fake: FakeVPS, run: Here
) -> None:
    options = ("--latest", "--expect-name", "web-7", "--yes")
    assert (await run("restore", "7", *options, fake=fake)).code == 0
    assert fake.restores == [(7, 5)]


async def test_a_number_with_a_leading_zero_is_a_name(fake: FakeVPS, run: Here) -> None:
    fake.add_server(6, "007")
    made = fake.add_backup(6)["id"]
    assert (await run("restore", "007", "--latest", "--yes", fake=fake)).code == 0
    assert (await run("restore", "007", str(made), "--yes", fake=fake)).code == 0
    assert fake.restores == [(6, made)] * 2


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("7", "7 is the id of server 7 (web-7), and the name of server 9:"),
        ("77", "77 is the id of no server, and the name of server 10:"),
    ],
)
@pytest.mark.parametrize("command", ["restore --yes", "show"])
async def test_a_number_that_is_also_the_name_of_another_server_is_refused(
    command: str, server: str, words: str, fake: FakeVPS, run: Here
) -> None:
    for number, name in ((9, "7"), (10, "77")):
        fake.add_server(number, name)
        fake.add_backup(number)
    ended = await run(*command.split(), server, "--latest", fake=fake)
    assert (ended.code, ended.out, fake.restores) == (1, "", [])
    assert words in ended.err


@pytest.mark.parametrize(
    ("arguments", "restored"),
    [
        ("7 --latest --expect-name web-7", 7),
        ("7 --latest --expect-name 7", 9),
        ("9 --latest", 9),
        ("7 5", 7),
    ],
)
async def test_the_expected_name_or_the_id_decides_between_two_servers(
    arguments: str, restored: int, fake: FakeVPS, run: Here
) -> None:
    fake.add_server(9, "7")
    fake.add_backup(9)
    assert (await run("restore", *arguments.split(), "--yes", fake=fake)).code == 0
    assert [server_id for server_id, _ in fake.restores] == [restored]


@pytest.mark.parametrize("calls", ["forbidden", "missing"])
async def test_a_number_is_an_id_where_the_api_shows_no_servers(
    calls: str, fake: FakeVPS, run: Here
) -> None:
    fake.account_calls = calls  # type: ignore[assignment]
    assert (await run("restore", "7", "--latest", "--yes", fake=fake)).code == 0
    assert fake.restores == [(7, 5)]


async def test_a_list_that_never_rests_has_no_latest_backup(fake: FakeVPS, run: Here) -> None:
    fake.page_size = fake.max_page_size = 2
    fake.on_request = lambda _: fake.add_backup(7)
    ended = await run("restore", "7", "--latest", "-y", fake=fake)
    assert ended.code == 1
    assert "the list of server 7 changed while it was read: try again" in ended.err
    assert fake.restores == []


# --- A list that moves, and one that fails --------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["delete", "7", "-y"], ["delete", "7:1", "-y"], ["restore", "1", "7", "-y"], ["show", "7"]],
    ids=" ".join,
)
async def test_a_deletion_between_two_pages_hides_no_backup(
    arguments: list[str], run: Here
) -> None:
    fake = FakeVPS(servers=1, backups=8, page_size=1, max_page_size=1, clock=time.time)

    def delete_from_page_1(seen: SeenRequest) -> None:
        if seen.query.get("page") == "2" and 8 in held(fake):
            fake.remove_backup(8)  # 7 moves from page 2 to page 1, which was read before

    fake.on_request = delete_from_page_1
    async with fake:
        ended = await run(*arguments, fake=fake)
    assert (ended.code, ended.err) == (0, "")
    assert 8 not in held(fake)
    assert (7 in held(fake)) == (arguments[0] != "delete")


async def test_a_backup_whose_list_fails_is_reported_as_that_and_others_are_deleted(
    run: Here,
) -> None:
    # The whole list is so long that it takes fewer requests to ask the two servers.
    async with FakeVPS(servers=3, backups=2, page_size=5, max_page_size=5) as fake:
        for _ in range(50):
            fake.add_backup(3)
        fake.inject(Reply(403, b'{"detail": "Not yours."}', path="server_id=2"))
        ended = await run("delete", "2:2", "1:1", "99:1", "-y", fake=fake)
    assert ended.code == 1
    assert ended.lines == ["1:1"]
    assert "backup 2:2: 403 Not yours." in ended.err
    assert "backup 99:1 is not there" in ended.err
    assert "2:2 is not there" not in ended.err
    assert len(held(fake)) == 55


async def test_where_no_list_can_be_read_nothing_is_deleted(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.revoke()
    assert await call("delete", "5", "6:8", "-y") == 3
    said = capfd.readouterr()
    assert said.err.count("401 Invalid token.") == 1
    assert "is not there" not in said.err
    assert fake.count("DELETE") == 0


# --- On a terminal -------------------------------------------------------------------------------

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")


@needs_pty
@pytest.mark.parametrize(("answer", "kept"), [("y\n", 4), ("YES\n", 4), ("n\n", 6), ("\n", 6)])
async def test_delete_shows_what_will_be_lost_and_asks(
    answer: str, kept: int, fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TerminalHere(monkeypatch, "delete", "5", "6:8", "99", fake=fake) as terminal:
        await terminal.shows("Delete these 2 backups of 2 servers for good? [y/N] ")
        assert fake.count("DELETE") == 0
        terminal.enter(answer)
        shown = await terminal.end()
    for facts in (
        ["5", "7", "web-7", "manual", "completed", "4100", "MB", "Before", "the", "upgrade"],
        ["6", "8", "db-8", "manual", "in_progress", "-"],
    ):
        assert any(set(facts) <= set(line.split()) for line in shown.splitlines())
    assert "backup 99 is not there" in shown
    assert ("deleted 5:7" in shown, "nothing was deleted" in shown) == (kept == 4, kept == 6)
    assert len(held(fake)) == kept
    assert terminal.code == 1  # 99 was not there, or nothing was done


@needs_pty
@pytest.mark.parametrize(("by", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
async def test_a_signal_at_the_question_deletes_nothing(by: str, code: int, fake: FakeVPS) -> None:
    async with Terminal("delete", "5", fake=fake) as terminal:
        await terminal.shows("Delete this backup for good? [y/N] ")
        terminal.interrupt(signal.Signals[by])
        assert "Traceback" not in await terminal.end()
        assert terminal.code == code
    assert fake.count("DELETE") == 0


@needs_pty
@pytest.mark.parametrize("answer", ["y\n", "no\n"])
async def test_restore_shows_what_will_replace_what_and_asks(
    answer: str, fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TerminalHere(monkeypatch, "restore", "7", "5", fake=fake) as terminal:
        await terminal.shows("[y/N] ")
        assert fake.count("POST") == 0
        terminal.enter(answer)
        shown = await terminal.end()
    assert "will replace all that is on server 7 (web-7)" in shown.replace("\n", " ")
    assert "Before the upgrade" in shown
    assert fake.restores == ([(7, 5)] if answer == "y\n" else [])
    assert terminal.code == (0 if answer == "y\n" else 1)


@needs_pty
async def test_deletes_that_take_long_show_how_far_they_are(fake: FakeVPS) -> None:
    fake.inject(Latency(600, method="DELETE"))
    async with Terminal("delete", "5", "--yes", fake=fake) as terminal:
        await terminal.shows("Deleting")
        await terminal.shows("0 failed, 1 under way")
        terminal.interrupt()
        shown = await terminal.end()
    assert terminal.code == 130
    assert "Deleting" not in shown


# --- What is said of a backup that was not found -------------------------------------------------


async def test_a_404_of_the_server_is_a_failure_and_no_proof_that_a_backup_is_gone(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.inject(Reply(404, b'{"detail": "no such page"}', method="GET"))
    assert await call("delete", "5", "-y") == 1
    said = capfd.readouterr().err
    assert "404 no such page" in said
    assert "not there" not in said


async def test_a_list_that_never_rests_is_not_taken_for_one_without_the_backup(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.page_size = fake.max_page_size = 2
    fake.on_request = lambda seen: fake.add_backup(8)
    assert await call("delete", "99", "-y") == 1
    said = capfd.readouterr().err
    assert "changed each time that it was read" in said
    assert "not there" not in said


async def test_backups_are_deleted_by_their_servers_lists_where_the_whole_list_fails(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.inject(Reply(403, b"{}", method="GET", path="/backups/?page_size"))
    assert await call("delete", "5:7", "2:8", "-y") == 0
    assert set(capfd.readouterr().out.split()) == {"5:7", "2:8"}
