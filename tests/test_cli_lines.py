"""Lines of a file or of standard input that name backups and servers, and those that do not."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest
from helpers_cli import Here, start
from helpers_cli import run as in_a_process

from vpsbackups_async.testing import FakeVPS

TABLE_ROW = "    7   12345  web-01  manual  completed     4000 MB  2026-11-30 03:28  Nightly"
CSV_ROW = "7,12345,web-01,manual,completed,4000,2026-11-30T03:28:00Z,,Nightly"


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=20, backup_seconds=0, clock=time.time) as server:
        yield server


@pytest.mark.parametrize("command", ["delete --yes", "wait --timeout 0"])
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (TABLE_ROW, "7 12345"),
        (CSV_ROW, "7 12345"),
        ("7,12345", "7 12345"),
        ("7:12345 9 manual", "7:12345 9"),
        ("7 9:12345", "7 9:12345"),
    ],
    ids=["row of the table", "row of the CSV form", "two ids", "pair and id", "id and pair"],
)
async def test_a_line_with_another_number_beside_an_id_is_refused_before_anything_is_sent(
    command: str, line: str, shown: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run(*command.split(), "--from", "-", fake=fake, given=f"1:1\n{line}\n")
    assert (ended.code, ended.out, fake.count()) == (2, "", 0)
    assert f"standard input, line 2: '{shown}' may be a backup and its server" in ended.err
    assert "give ID:SERVER, or one ID a line" in ended.err


async def test_the_csv_form_of_a_list_is_refused_although_its_header_is_cut_off(
    fake: FakeVPS, run: Here
) -> None:
    precious = fake.add_backup(5)
    fake.add_backup(precious["id"], description=f"\n{precious['id']}")
    listed = await run("list", "--csv", fake=fake)
    before = fake.count()
    rows = listed.out.partition("\n")[2]
    ended = await run("delete", "--yes", "--from", "-", fake=fake, given=rows)
    assert (ended.code, fake.count(), len(fake.backups)) == (2, before, 2)


async def test_a_line_may_have_several_pairs_and_a_text_behind_them(
    fake: FakeVPS, run: Here
) -> None:
    for server in (1, 2, 3, 4):
        fake.add_backup(server)
    given = "1:1, 2:2  manual 4\n3 web-01 4  # 4\n"
    ended = await run("delete", "--yes", "--from", "-", fake=fake, given=given)
    assert (ended.code, sorted(ended.lines)) == (0, ["1:1", "2:2", "3:3"])


async def test_what_an_interrupted_wait_prints_of_ids_without_servers_can_be_pasted(
    fake: FakeVPS,
) -> None:
    for server in range(1, 7):
        fake.add_backup(server, status="in_progress")
    looked = asyncio.Event()
    fake.on_request = lambda _: fake.count("GET") > 1 and looked.set()
    process = await start("wait", *map(str, range(1, 7)), fake=fake)
    await looked.wait()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    _, _, typed = err.decode().partition("vpsbackups wait --from - <<END\n")
    given, _, _ = typed.partition("END\n")
    for number in range(1, 7):
        fake.finish(number)
    ended = await in_a_process("wait", "--from", "-", fake=fake, given=given)
    assert (ended.code, len(ended.lines)) == (0, 6)


@pytest.mark.parametrize(
    "command", ["create", "rotate --job j --keep-last 1", "list", "audit --rpo 1d"]
)
@pytest.mark.parametrize(
    "line",
    [TABLE_ROW, CSV_ROW, "7:12345", "1  active  fra1  192.0.2.1  web-01"],
    ids=["row of the table", "row of the CSV form", "pair", "row of the servers"],
)
async def test_a_row_of_a_list_names_no_servers(
    command: str, line: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run(*command.split(), "--servers-from", "-", fake=fake, given=f"1\n{line}\n")
    assert (ended.code, ended.out, fake.count()) == (2, "", 0)
    assert "standard input, line 2: " in ended.err
