"""Input that names no server is no failure, and never means all servers."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Here

from vpsbackups_async.testing import FakeVPS

COMMANDS = (
    "rotate --job j --keep-last 1", "prune --keep-last 1", "prune --keep-last 1 --apply",
    "audit --rpo 24h", "list", "report --html page.html", "run submit night", "create",
)  # fmt: skip


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=2, backups=3, clock=time.time) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, tmp_path: Path) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(monkeypatch, capfd)


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_source_without_servers_is_nothing_to_do(
    command: str, fake: FakeVPS, run: Here, tmp_path: Path
) -> None:
    words = (*command.split(), "--servers-from", "-")
    place = {"VPSBACKUPS_DATABASE": f"sqlite:///{tmp_path / 'runs.sqlite'}"}
    ended = await run(*words, fake=fake, given="# none\n", **place)
    assert (ended.code, ended.out, fake.count()) == (0, "", 0)
    assert ended.err.startswith("standard input names no server: nothing ")
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # a folder of the test's own
    assert (await run(*words, "-q", fake=fake, **place)).err == ""


@pytest.mark.parametrize("command", COMMANDS)
async def test_all_servers_beside_an_empty_source_are_refused(
    command: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run(*command.split(), "--all", "--servers-from", "-", fake=fake)
    assert (ended.code, ended.out, fake.count()) == (2, "", 0)
    assert "--all is every server" in ended.err


@pytest.mark.parametrize(
    ("form", "shown"), [("--json", "[]\n"), ("--ndjson", ""), ("--csv", "id,")]
)
async def test_a_list_of_no_servers_is_well_formed(
    form: str, shown: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run("list", form, "--servers-from", "-", fake=fake)
    assert (ended.code, ended.out[: len(shown) or None], fake.count()) == (0, shown, 0)


@pytest.mark.parametrize(
    "command",
    ["list", "status n", "status n --watch", "results n", "retry n", "cancel n", "forget n",
     "forget --older-than 1d", "schedule", "schedule --delete"],
)  # fmt: skip
async def test_a_database_that_is_not_there_is_named_and_not_made(
    command: str, run: Here, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/typo/runs.sqlite"
    ended = await run("run", *command.split(), "--database", url)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: there is no database {url}")
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # a folder of the test's own
