"""`vpsbackups servers`, and `create --all`."""

import csv
import io
import json
import sys
from collections.abc import AsyncIterator

import pytest
from helpers_cli import Here, TerminalHere

from vpsbackups_async.testing import FakeVPS


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(
        servers={1: "web-1", 2: "db 2", 3: "日本語のサーバー"},
        server_statuses={2: "stopped", 3: "being moved"},
        server_locations={3: "eu-west"},
    ) as server:
        yield server


# --- servers -------------------------------------------------------------------------------------


async def test_piped_servers_are_a_line_each_that_begins_with_the_id(
    fake: FakeVPS, run: Here
) -> None:
    fake.add_server(7, "bare", status=..., location=None, ip_address=..., hostname="\x1b[2J")
    ended = await run("servers", fake=fake)
    assert (ended.code, ended.err) == (0, "")
    assert ended.lines == [
        "7          -         -            -                bare",
        "3          being_moved eu-west      10.0.0.3         日本語のサーバー",
        "2          stopped   us-west      10.0.0.2         db 2",
        "1          active    us-west      10.0.0.1         web-1",
    ]


async def test_the_filters_are_left_to_the_api(fake: FakeVPS, run: Here) -> None:
    ended = await run("servers", "--status", "active", "--location", "us-west", fake=fake)
    assert [line.split()[0] for line in ended.lines] == ["1"]
    assert fake.requests[0].query == {
        "status": "active",
        "location": "us-west",
        "page_size": "100",
    }


async def test_json_ndjson_and_csv_give_what_the_api_gives(fake: FakeVPS, run: Here) -> None:
    whole = json.loads((await run("servers", "--json", fake=fake)).out)
    lines = (await run("servers", "--ndjson", fake=fake)).lines
    rows = list(csv.DictReader(io.StringIO((await run("servers", "--csv", fake=fake)).out)))
    assert whole == [json.loads(line) for line in lines]
    assert whole[0]["plan"]["name"] == "Standard"
    assert [(row["id"], row["status"]) for row in rows] == [
        ("3", "being moved"),
        ("2", "stopped"),
        ("1", "active"),
    ]
    both = await run("servers", "--json", "--csv", fake=fake)
    assert (both.code, "exclude each other" in both.err) == (2, True)


async def test_an_account_without_servers_gives_an_empty_list(fake: FakeVPS, run: Here) -> None:
    for server_id in (1, 2, 3):
        fake.remove_server(server_id)
    for form, text in (("--json", "[]\n"), ("--ndjson", "")):
        ended = await run("servers", form, fake=fake)
        assert (ended.code, ended.out) == (0, text)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")
async def test_on_a_terminal_servers_are_a_table(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TerminalHere(monkeypatch, "servers", fake=fake) as terminal:
        shown = await terminal.end()
    assert shown.splitlines() == [
        "ID  NAME              STATUS       LOCATION  IP ADDRESS       HOSTNAME",
        " 3  日本語のサーバー  being moved  eu-west   10.0.0.3         日本語のサーバー.…",
        " 2  db 2              stopped      us-west   10.0.0.2         db 2.example.com",
        " 1  web-1             active       us-west   10.0.0.1         web-1.example.com",
    ]


@pytest.mark.parametrize("calls", ["forbidden", "missing"])
@pytest.mark.parametrize("command", [("servers",), ("create", "--all")], ids=["servers", "create"])
async def test_where_there_is_no_list_of_servers_the_hint_is_to_name_them(
    fake: FakeVPS, run: Here, calls: str, command: tuple[str, ...]
) -> None:
    fake.account_calls = calls  # type: ignore[assignment]
    ended = await run(*command, fake=fake)
    assert (ended.code, ended.out) == (1, "")
    assert "Name the servers by their ids" in ended.err
    assert "interrupted" not in ended.err


# --- create --all --------------------------------------------------------------------------------


async def test_create_all_backs_up_every_server(fake: FakeVPS, run: Here) -> None:
    ended = await run("create", "--all", "--description", "Nightly", fake=fake)
    assert ended.code == 0
    assert sorted(line.partition(":")[2] for line in ended.lines) == ["1", "2", "3"]
    assert {backup["description"] for backup in fake.backups} == {"Nightly"}


@pytest.mark.parametrize("given", ["1\n", ""], ids=["some", "none"])
@pytest.mark.parametrize("named", [["1"], ["--servers-from", "-"]])
async def test_create_all_takes_no_other_servers(
    fake: FakeVPS, run: Here, named: list[str], given: str
) -> None:
    ended = await run("create", "--all", *named, fake=fake, given=given)
    assert (ended.code, fake.count()) == (2, 0)
    assert "name none beside it" in ended.err


async def test_create_all_of_an_account_without_servers_fails(fake: FakeVPS, run: Here) -> None:
    for server_id in (1, 2, 3):
        fake.remove_server(server_id)
    ended = await run("create", "--all", fake=fake)
    assert ended.code != 0
    assert "the account has no servers" in ended.err


async def test_create_all_tells_of_a_list_that_is_not_complete_after_what_it_started(
    fake: FakeVPS, run: Here
) -> None:
    fake.paging = "none"
    fake.truncate_to = 2
    ended = await run("create", "--all", fake=fake)
    assert ended.code == 1
    assert len(ended.lines) == 2
    assert "the list of servers could not be read completely" in ended.err
    assert "Servers may be missing" in ended.err
