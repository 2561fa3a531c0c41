"""The command that is printed where it is not known whether a server got a backup."""

import shlex
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers_cli import Ended, Here

from vpsbackups_async import CreateOutcomeUnknownError
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.pasting import given
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.testing import FakeVPS, Latency, Reply

HOUR = timedelta(hours=1)


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=9, backup_seconds=0, clock=time.time) as server:
        yield server


async def in_doubt(fake: FakeVPS, run: Here, *options: str) -> list[str]:
    """The words of the command that is printed after an answer was lost and no look can tell."""
    fake.inject(Reply(503, b"{}", method="POST", when="after"))
    fake.inject(Reply(403, b"{}", method="GET", after=1 if "--unless-newer-than" in options else 0))
    ended = await run("create", "5", *options, fake=fake)
    fake.clear_faults()
    assert (ended.code, fake.count("POST")) == (1, 1)
    return shlex.split(ended.err.splitlines()[-1])[1:]


def made_earlier(fake: FakeVPS, hours: float) -> None:
    """Replace the backup of server 5 by one that was made so many hours earlier."""
    (made,) = fake.backups
    fake.remove_backup(made["id"])
    add(fake, hours, made["description"])


def add(fake: FakeVPS, hours: float, description: str, **more: str) -> None:
    when = datetime.now(UTC) - hours * HOUR
    fake.add_backup(5, description=description, created_at=f"{when:%Y-%m-%dT%H:%M:%SZ}", **more)


async def pasted(fake: FakeVPS, run: Here, words: list[str]) -> Ended:
    ended = await run(*words, fake=fake)
    assert ended.code == 0
    return ended


def bound_of(words: list[str]) -> datetime:
    return datetime.fromisoformat(words[words.index("--unless-newer-than") + 1])


@pytest.mark.parametrize(
    ("options", "hours"),
    [
        ((), 1),
        (("--unless-newer-than", "30m"), 1),
        (("--unless-newer-than", "20h"), 20),
    ],
    ids=["no window", "a short window", "a long window"],
)
async def test_the_printed_command_reaches_back_an_hour_or_as_far_as_the_command_itself_did(
    options: tuple[str, ...], hours: int, fake: FakeVPS, run: Here
) -> None:
    before = datetime.now(UTC)
    words = await in_doubt(fake, run, *options)
    assert before - hours * HOUR - timedelta(minutes=1) <= bound_of(words)
    assert bound_of(words) <= datetime.now(UTC) - hours * HOUR


async def test_the_printed_command_reaches_back_as_far_as_the_date_that_was_given(
    fake: FakeVPS, run: Here
) -> None:
    when = f"{datetime.now(UTC) - 9 * HOUR:%Y-%m-%dT%H:%M}"
    words = await in_doubt(fake, run, "--unless-newer-than", when)
    assert words[2] == f"{when}Z"


async def test_a_printed_command_of_hours_ago_makes_no_second_backup(
    fake: FakeVPS, run: Here
) -> None:
    words = await in_doubt(fake, run, "-d", "Nightly")
    earlier = bound_of(words) - 7 * HOUR  # as if all of it had been seven hours ago
    words[words.index("--unless-newer-than") + 1] = f"{earlier:%Y-%m-%dT%H:%MZ}"
    made_earlier(fake, 7)
    await pasted(fake, run, words)
    assert len(fake.backups) == 1


async def test_a_backup_that_still_runs_and_is_newer_than_the_date_counts_however_old_it_is(
    fake: FakeVPS, run: Here
) -> None:
    add(fake, 7, "Nightly", status="in_progress")
    date = f"{datetime.now(UTC) - 8 * HOUR:%Y-%m-%dT%H:%M}"
    ended = await run("create", "5", "-d", "Nightly", "--unless-newer-than", date, fake=fake)
    assert (ended.code, fake.count("POST")) == (0, 0)
    ended = await run("create", "5", "-d", "Nightly", "--unless-newer-than", "8h", fake=fake)
    assert (ended.code, fake.count("POST")) == (0, 1)


async def test_a_date_leaves_out_what_is_older(fake: FakeVPS, run: Here) -> None:
    add(fake, 3, "Nightly")
    for hours, posts in ((4, 0), (2, 1)):
        date = f"{datetime.now(UTC) - hours * HOUR:%Y-%m-%dT%H:%M}"
        ended = await run("create", "5", "-d", "Nightly", "--unless-newer-than", date, fake=fake)
        assert (ended.code, fake.count("POST")) == (0, posts)


async def test_a_date_stays_where_it_is_while_other_servers_are_worked_on(
    fake: FakeVPS, run: Here
) -> None:
    fake.inject(Latency(2.5, method="POST"))
    date = datetime.now(UTC).replace(microsecond=0)
    fake.add_backup(5, created_at=date + timedelta(seconds=1))
    options = ("--concurrency", "1", "--unless-newer-than", f"{date:%Y-%m-%dT%H:%M:%S}")
    ended = await run("create", "1", "5", *options, fake=fake)
    assert (ended.code, [made["server"]["id"] for made in fake.backups]) == (0, [5, 1])


@pytest.mark.parametrize("text", ["-x", "It's nightly", "--all", "", "-"])
async def test_the_printed_command_has_the_description_whatever_it_begins_with(
    text: str, fake: FakeVPS, run: Here
) -> None:
    words = await in_doubt(fake, run, f"--description={text}")
    await pasted(fake, run, words)
    assert [made["description"] for made in fake.backups] == [text]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--unless-newer-than 2999-01-01", "is in the future"),
        ("--unless-newer-than 2026-13-01", "is neither an age (90m, 24h, 7d) nor a date"),
        ("--unless-newer-than 2026-01-01 --durable", "--durable takes a duration"),
    ],
)
async def test_a_date_that_cannot_be_is_refused(
    arguments: str, said: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run("create", "1", *arguments.split(), fake=fake)
    assert (ended.code, fake.count()) == (2, 0)
    assert said in ended.err


async def test_printed_commands_have_the_url_and_the_token_file_that_were_given(
    fake: FakeVPS, run: Here, tmp_path: Path
) -> None:
    (tmp_path / "my  token").write_text(fake.token)
    options = ("--url", fake.url, "--token-file", str(tmp_path / "my  token"))
    fake.inject(Reply(503, b"{}", method="POST", when="after"))
    fake.inject(Reply(403, b"{}", method="GET"))
    ended = await run("create", "5", *options)
    assert ended.code == 1
    assert fake.token not in ended.err
    fake.clear_faults()
    again = shlex.split(ended.err.splitlines()[-1])[1:]
    assert again[-5:] == [*options, "5"]
    assert (await run(*again)).code == 0
    assert len(fake.backups) == 1


def test_a_hint_with_a_command_has_the_options_that_were_given(
    capfd: pytest.CaptureFixture,
) -> None:
    failures = Failures(Screen(), given=given(Common(url="http://127.0.0.1:1")))
    failures.add("server 5", CreateOutcomeUnknownError((), 5, "Nightly", "no look told"))
    failures.close()
    assert capfd.readouterr().err.endswith(
        "vpsbackups list --type manual --server 5 --url http://127.0.0.1:1\n"
    )


@pytest.mark.parametrize("most", [9, 0], ids=["few", "many"])
async def test_the_command_that_waits_has_the_url_and_the_token_file_that_were_given(
    fake: FakeVPS, run: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("vpsbackups_async.cli.pasting.AT_MOST", most)
    (tmp_path / "token").write_text(fake.token)
    fake.backup_seconds = 600
    options = f"--url {fake.url} --token-file {tmp_path / 'token'}"
    ended = await run("create", "5", "--wait", "--timeout", "0.1", *options.split())
    assert ended.code == 4
    listed = f"vpsbackups list --type manual --status in_progress {options} | "
    waited = f"vpsbackups wait {options} "
    assert ended.err.splitlines()[-1] == (f"{waited}1:5" if most else f"{listed}{waited}--from -")
