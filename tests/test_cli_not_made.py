"""`--not-made-to` after an interruption: only servers that certainly got no backup."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Here, start

from vpsbackups_async.testing import Drop, FakeVPS, Fault, Latency, RateLimit, Reply, ServerFault


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=9, visible_after=1000, clock=time.time) as server:
        yield server


def names_in(folder: Path) -> list[str]:
    """The names of the files in the folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())


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
    assert ("vpsbackups create --unless-newer-than" in err.decode()) == (not left)


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
    ("arguments", "settings"),
    [
        ("1 2 --not-made-to {old}", {"VPS_API_TOKEN": ""}),
        ("1 2 --not-made-to {old}", {"VPS_API_URL": "ftp://nowhere"}),
        ("1 2 --not-made-to {old} --concurrency 0", {}),
        ("1 2 --not-made-to {old} --timeout soon -w", {}),
    ],
)
async def test_a_command_that_fails_at_once_leaves_the_servers_that_it_names(
    arguments: str,
    settings: dict[str, str],
    fake: FakeVPS,
    tmp_path: Path,
    run: Here,
) -> None:
    old = tmp_path / "left"
    old.write_text("7\n8\n")
    ended = await run("create", *arguments.format(old=old).split(), fake=fake, **settings)
    assert (ended.code, fake.count(), old.read_text()) == (2, 0, "1\n2\n")
    assert names_in(tmp_path) == [old.name]


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ("1 x --not-made-to {old}", {}),
        ("--servers-from {old}.gone --not-made-to {old}", {}),
        ("1 2 --not-made-to {old} --concurrency many", {}),
        ("1 2 --not-made-to={old} --unheard-of", {}),
        ("--not-made-to {old}", {}),
        ("--all --not-made-to {old} 1", {}),
        ("--all --not-made-to {old}", {"VPS_API_TOKEN": ""}),
    ],
)
async def test_where_the_servers_are_not_known_no_file_is_left_and_that_is_said(
    arguments: str,
    settings: dict[str, str],
    is_there: bool,
    fake: FakeVPS,
    tmp_path: Path,
    run: Here,
) -> None:
    old = tmp_path / "left"
    if is_there:
        old.write_text("7\n8\n")
    ended = await run("create", *arguments.format(old=old).split(), fake=fake, **settings)
    assert (ended.code, fake.count(), names_in(tmp_path)) == (2, 0, [])
    how = "removed" if is_there else "not written"
    assert f"it is not known which servers are left: {old} was {how}\n" in ended.err
    assert (await run("create", "--servers-from", str(old), fake=fake)).code == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Reply(500, b"{}"), 1),
        (Reply(401, b"{}"), 3),
        (Drop(), 1),
    ],
    ids=["500", "401", "cut"],
)
async def test_where_the_list_of_all_servers_cannot_be_read_no_file_is_left(
    fault: Fault, code: int, fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    old = tmp_path / "left"
    old.write_text("7\n")
    fake.inject(fault)
    ended = await run("create", "--all", "--not-made-to", str(old), fake=fake)
    assert (ended.code, fake.count("POST"), names_in(tmp_path)) == (code, 0, [])
    assert f"it is not known which servers are left: {old} was removed\n" in ended.err


async def test_ctrl_c_while_all_servers_are_listed_says_in_a_line_what_happened(
    fake: FakeVPS, tmp_path: Path
) -> None:
    fake.inject(Latency(600))
    asked = asyncio.Event()
    fake.on_request = lambda _: asked.set()
    old = tmp_path / "left"
    process = await start("create", "--all", "--not-made-to", str(old), fake=fake)
    await asked.wait()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, fake.count("POST"), old.exists()) == (130, 0, False)
    assert err.decode() == (
        "interrupted: no backup was started, and it is not known which servers are left: "
        f"{old} was not written\n"
    )


async def test_a_file_that_is_no_regular_one_is_not_removed(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        ended = await run("create", "404", "--not-made-to", str(pipe), fake=fake)
        assert (ended.code, os.read(end, 100)) == (1, b"404\n")
    finally:
        os.close(end)
    assert names_in(tmp_path) == [pipe.name]


async def test_a_link_stays_one_and_leads_to_the_servers(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "left")
    ended = await run("create", "404", "--not-made-to", str(tmp_path / "link"), fake=fake)
    assert (ended.code, (tmp_path / "link").is_symlink()) == (1, True)
    assert (tmp_path / "left").read_text() == "404\n"


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


@pytest.mark.parametrize("source", ["path", "stdin"])
async def test_servers_that_are_read_from_the_same_file_are_beside_it_while_they_are_begun(
    source: str, fake: FakeVPS, tmp_path: Path
) -> None:
    todo, begun = tmp_path / "todo", tmp_path / "todo.begun"
    todo.write_text("7\n8\n")
    seen: list[tuple[bool, str]] = []
    fake.on_request = lambda _: seen.append((todo.exists(), begun.read_text()))
    with todo.open() as given:
        same = (
            *("--servers-from", str(todo) if source == "path" else "-"),
            *("--not-made-to", str(todo)),
        )
        process = await start("create", *same, fake=fake, stdin=given.fileno())
        await process.communicate()
    assert (process.returncode, set(seen)) == (0, {(False, "7\n8\n")})
    assert (todo.read_text(), names_in(tmp_path)) == ("", ["todo"])


async def killed(fake: FakeVPS, *arguments: str) -> None:
    """Run the command, and kill it at its first POST."""
    fake.inject(Latency(600, method="POST", when="after", times=1))
    begun = asyncio.Event()
    fake.on_request = lambda _: fake.count("POST") and begun.set()
    process = await start(*arguments, fake=fake)
    await begun.wait()
    process.kill()
    await process.communicate()
    fake.on_request = None


async def test_a_run_that_is_killed_leaves_no_list_that_could_be_run_again(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    old = tmp_path / "left"
    old.write_text("7\n")
    await killed(fake, "create", "5", "6", "--not-made-to", str(old))
    assert not old.exists()
    sent = fake.count()
    assert (await run("create", "--servers-from", str(old), fake=fake)).code == 2
    assert (await run("create", "1", "--not-made-to", str(old), fake=fake)).code == 0
    assert (fake.count() > sent, names_in(tmp_path)) == (True, ["left"])


async def test_a_run_that_is_killed_does_not_lose_the_servers_of_the_same_file(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    todo, begun = tmp_path / "todo", tmp_path / "todo.begun"
    todo.write_text("5\n6\n")
    fake.visible_after = 0
    same = ("--servers-from", str(todo), "--not-made-to", str(todo))
    await killed(fake, "create", *same)
    sent = fake.count()
    ended = await run("create", *same, fake=fake)
    assert (ended.code, fake.count(), begun.read_text()) == (2, sent, "5\n6\n")
    assert f"an earlier run was killed, and left its servers in {begun}" in ended.err
    options = ("--unless-newer-than", "1h", "--not-made-to", str(todo))
    ended = await run("create", "--servers-from", str(begun), *options, fake=fake)
    assert (ended.code, len(fake.backups), todo.read_text()) == (0, 2, "")


async def test_a_token_that_is_refused_before_the_servers_are_known_leaves_no_old_list(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    old = tmp_path / "left"
    old.write_text("7\n")
    fake.revoke()
    ended = await run("create", "--all", "--not-made-to", str(old), fake=fake)
    assert (ended.code, old.exists()) == (3, False)
