"""`--not-made-to` after an interruption: only servers that certainly got no backup."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Here, start

from vpsbackups_async.testing import Drop, FakeVPS, Fault, RateLimit, Reply, ServerFault


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=9, visible_after=1000, clock=time.time) as server:
        yield server


@pytest.mark.parametrize(
    ("fault", "left", "kind"),
    [
        (RateLimit(60, method="POST", times=1), "5\n", "NotAttemptedError"),
        (
            ServerFault(503, method="POST", retry_after=60, when="after", times=1),
            "",
            "CreateOutcomeUnknownError",
        ),
    ],
    ids=["429", "503"],
)
async def test_a_create_interrupted_in_its_pause_is_certain_only_after_a_refusal(
    fault: Fault, left: str, kind: str, fake: FakeVPS, tmp_path: Path
) -> None:
    fake.inject(fault)
    file = tmp_path / "left"
    process = await start("create", "5", "--ndjson", "--not-made-to", str(file), fake=fake)
    while not fake.count("POST"):  # noqa: ASYNC110  # the fake has no hook after its answers
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # earlier, it is interrupted on the wire, and has no pause
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, file.read_text()) == (130, left)
    assert json.loads(out)["error"]["type"] == kind
    assert ("vpsbackups create --unless-newer-than 1h 5" in err.decode()) == (not left)


@pytest.mark.parametrize(
    "faults",
    [
        (Reply(500, b"{}", method="GET"),),
        (Drop(method="GET"),),
        (Reply(200, b'{"count": 1, "results": [{"id": 1, "created_at": null}]}', method="GET"),),
        (Reply(200, b"<html>", method="GET"),),
        (Drop(method="GET", times=1), Reply(403, b"{}", method="GET")),
    ],
    ids=["500", "cut", "no created_at", "no JSON", "cut, then 403"],
)
async def test_a_server_whose_list_cannot_be_read_before_its_create_certainly_got_none(
    faults: tuple[Fault, ...], fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    fake.inject(*faults)
    file = tmp_path / "left"
    options = ("--unless-newer-than", "20h", "--not-made-to", str(file))
    ended = await run("create", "5", *options, fake=fake)
    assert (ended.code, fake.count("POST"), file.read_text()) == (1, 0, "5\n")
    assert "may have got a backup" not in ended.err


# --- What an earlier run left --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "settings", "left"),
    [
        ("1 2 --not-made-to {old}", {"VPS_API_TOKEN": ""}, "1\n2\n"),
        ("1 2 --not-made-to {old}", {"VPS_API_URL": "ftp://nowhere"}, "1\n2\n"),
        ("1 2 --not-made-to {old} --concurrency 0", {}, "1\n2\n"),
        ("1 2 --not-made-to {old} --timeout soon -w", {}, "1\n2\n"),
        ("1 x --not-made-to {old}", {}, ""),
        ("--servers-from {old}.gone --not-made-to {old}", {}, ""),
        ("--not-made-to {old}", {}, ""),
        ("1 2 --not-made-to {old} --concurrency many", {}, ""),
        ("1 2 --not-made-to={old} --unheard-of", {}, ""),
        ("--all --not-made-to {old}", {"VPS_API_TOKEN": ""}, ""),
    ],
)
async def test_a_command_that_fails_at_once_does_not_leave_the_list_of_an_earlier_run(
    arguments: str,
    settings: dict[str, str],
    left: str,
    fake: FakeVPS,
    tmp_path: Path,
    run: Here,
) -> None:
    old = tmp_path / "left"
    old.write_text("7\n8\n")
    ended = await run("create", *arguments.format(old=old).split(), fake=fake, **settings)
    assert (ended.code, fake.count(), old.read_text()) == (2, 0, left)


@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("", {"VPS_API_TOKEN": ""}),
        ("--concurrency 0", {}),
        ("--concurrency many", {}),
        ("--unheard-of", {}),
    ],
)
@pytest.mark.parametrize("source", ["path", "stdin"])
async def test_servers_that_are_read_from_the_same_file_are_not_lost_to_a_usage_error(
    source: str, option: str, settings: dict[str, str], fake: FakeVPS, tmp_path: Path
) -> None:
    todo = tmp_path / "todo"
    todo.write_text("7\n8\n")
    with todo.open() as given:
        process = await start(
            *("create", "--servers-from", str(todo) if source == "path" else "-"),
            *("--not-made-to", str(todo), *option.split()),
            fake=fake,
            stdin=given.fileno(),
            **settings,
        )
        await process.communicate()
    assert (process.returncode, fake.count(), todo.read_text()) == (2, 0, "7\n8\n")


async def test_an_option_in_the_place_of_a_forgotten_file_name_makes_no_file(
    fake: FakeVPS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Here
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = await run("create", "1", "--not-made-to", "--unheard-of", fake=fake)
    assert (ended.code, fake.count()) == (2, 0)
    assert not Path("--unheard-of").exists()  # noqa: ASYNC240  # at once


@pytest.mark.parametrize("command", ["rotate", "wait", "creat"])
async def test_a_command_without_the_option_leaves_the_file_alone(
    command: str, tmp_path: Path, run: Here
) -> None:
    file = tmp_path / "left"
    file.write_text("7\n")
    assert (await run(command, "--not-made-to", str(file))).code == 2
    assert file.read_text() == "7\n"


async def test_a_line_that_is_no_id_keeps_the_file_that_it_is_in(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    todo = tmp_path / "todo"
    todo.write_text("7\nweb-01\n")
    same = ("--servers-from", str(todo), "--not-made-to", str(todo))
    assert (await run("create", *same, fake=fake)).code == 2
    assert todo.read_text() == "7\nweb-01\n"


async def test_a_file_that_servers_are_read_from_is_empty_once_they_are_begun(
    fake: FakeVPS, tmp_path: Path
) -> None:
    todo = tmp_path / "todo"
    todo.write_text("7\n8\n")
    seen: list[str] = []
    fake.on_request = lambda _: seen.append(todo.read_text())
    same = ("--servers-from", str(todo), "--not-made-to", str(todo))
    process = await start("create", *same, fake=fake)
    await process.communicate()
    assert (process.returncode, set(seen), todo.read_text()) == (0, {""}, "")


async def test_a_token_that_is_refused_before_the_servers_are_known_leaves_no_old_list(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    old = tmp_path / "left"
    old.write_text("7\n")
    fake.revoke()
    ended = await run("create", "--all", "--not-made-to", str(old), fake=fake)
    assert (ended.code, old.read_text()) == (3, "")
