"""`python -m vpsbackups_async`."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import vpsbackups_async.__main__ as command
from vpsbackups_async.testing import FakeVPS, Latency

ROOT = Path(__file__).resolve().parent.parent


class Ended:
    """How a run of the command ended, and what it said."""

    def __init__(self, code: int | None, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out.decode()
        self.err = err.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


async def start(
    *arguments: str, fake: FakeVPS | None = None, stdout: int = subprocess.PIPE, **environment: str
) -> asyncio.subprocess.Process:
    """The command in a process of its own, with the environment pointing at the server."""
    given = {name: text for name, text in os.environ.items() if not name.startswith("VPS_")}
    given["PYTHONPATH"] = str(ROOT)
    if fake is not None:
        given |= {"VPS_API_TOKEN": fake.token, "VPS_API_URL": fake.url}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-m", "vpsbackups_async"),
        *arguments,
        env=given | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


async def run(*arguments: str, fake: FakeVPS | None = None, **environment: str) -> Ended:
    """The same, once it has ended."""
    process = await start(*arguments, fake=fake, **environment)
    out, err = await process.communicate()
    return Ended(process.returncode, out, err)


# --- list ----------------------------------------------------------------------------------------


async def test_list_prints_one_line_per_backup(fake: FakeVPS) -> None:
    fake.add_backup(2, description="Before  the\nupgrade", size_mb=4100)
    fake.add_backup(2, status="in_progress")
    ended = await run("list", fake=fake)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.lines) == 17
    assert re.fullmatch(
        r" +17 +2 server-0002 +manual +in_progress +-  2025-01-16 15:4\d", ended.lines[0]
    )
    assert re.fullmatch(
        r" +16 +2 server-0002 +manual +completed +4100 MB  2025-01-16 15:4\d  Before the upgrade",
        ended.lines[1],
    )


async def test_list_takes_a_server_and_a_type(fake: FakeVPS) -> None:
    fake.add_backup(2)
    ended = await run("list", "--server", "2", "--type", "manual", fake=fake)
    assert [line.split()[:2] for line in ended.lines] == [["16", "2"]]
    assert fake.requests[0].query == {"server_id": "2", "backup_type": "manual"}


async def test_list_shows_nothing_that_a_terminal_would_obey(fake: FakeVPS) -> None:
    fake.add_backup(1, description="\x1b[2J gone \u0175")
    for encoding, shown in (("utf-8", "?[2J gone \u0175"), ("ascii", "?[2J gone ?")):
        ended = await run("list", fake=fake, PYTHONIOENCODING=encoding)
        assert ended.code == 0
        assert ended.lines[0].endswith(shown)


async def test_a_wrong_token_is_exit_code_3_and_one_line(fake: FakeVPS) -> None:
    ended = await run("list", fake=fake, VPS_API_TOKEN="vps_mistyped")
    assert (ended.code, ended.out) == (3, "")
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("error: 401 Invalid token.")
    assert "VPS_API_TOKEN" in ended.err
    assert "vps_mistyped" not in ended.err


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "there is no token"),
        ({"VPS_API_TOKEN": "x", "VPS_API_URL": "http://panel.example"}, "allow_insecure"),
        ({"VPS_API_TOKEN": "x", "VPS_API_URL": "nonsense"}, "base_url"),
    ],
)
async def test_a_wrong_set_up_is_exit_code_1_and_one_line(
    environment: dict[str, str], words: str
) -> None:
    ended = await run("list", **environment)
    assert (ended.code, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1
    assert words in ended.err


@pytest.mark.parametrize("server", ["0", "-5", "abc", "1.5", "9" * 5000, ""])
async def test_a_bad_server_is_a_usage_error(server: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["list", "--server", server])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: python -m vpsbackups_async list")
    assert "argument --server" in said


@pytest.mark.parametrize("arguments", [[], ["lost"], ["list", "--type", "weekly"], ["demo", "x"]])
def test_bad_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m vpsbackups_async")


@pytest.mark.parametrize("arguments", [["list"], ["demo"]])
async def test_a_reader_that_has_enough_ends_the_command_quietly(arguments: list[str]) -> None:
    async with FakeVPS(servers=100, backups=50) as fake:
        reading, writing = os.pipe()
        process = await start(*arguments, fake=fake, stdout=writing)
        os.close(writing)
        assert await asyncio.to_thread(os.read, reading, 10)
        os.close(reading)
        _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert fake.count() < 250


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
async def test_an_interrupt_is_exit_code_130_without_a_traceback(fake: FakeVPS) -> None:
    fake.inject(Latency(600))
    asked = asyncio.Event()
    fake.on_request = lambda _: asked.set()
    process = await start("list", fake=fake)
    await asked.wait()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


# --- The same in this process, where coverage sees it ---------------------------------------------


@pytest.fixture
async def in_env(fake: FakeVPS, monkeypatch: pytest.MonkeyPatch) -> FakeVPS:
    monkeypatch.setenv("VPS_API_TOKEN", fake.token)
    monkeypatch.setenv("VPS_API_URL", fake.url)
    return fake


async def test_main_lists_and_returns_its_exit_code(
    in_env: FakeVPS, capsys: pytest.CaptureFixture
) -> None:
    assert await asyncio.to_thread(command.main, ["list", "--server", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    in_env.revoke()
    assert await asyncio.to_thread(command.main, ["list"]) == 3
    in_env.allow()
    in_env.forbid()
    assert await asyncio.to_thread(command.main, ["list"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


async def test_main_ends_quietly_when_nobody_reads(
    in_env: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert await asyncio.to_thread(command.main, ["list"]) == 0


# --- demo ----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_demo_does_what_it_says(capsys: pytest.CaptureFixture) -> None:
    fake = FakeVPS(servers=25, backups=2, backup_seconds=lambda made: made["id"] % 5)
    assert await command.demo(fake) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert said.err == ""
    assert all(len(line) <= 100 and line.isprintable() for line in lines)

    assert f"listens on {fake.url}" in lines[0]
    assert lines[2] == "It holds 50 backups (50 automatic), read page by page."
    made = [backup for backup in fake.backups if backup["id"] > 50]
    bars = [line for line in lines if "#" in line]
    assert len(bars) == 25
    for number, bar in enumerate(bars, 1):
        assert f"[{'#' * number}{'.' * (25 - number)}] {number:>2}/25" in bar
    ended = [int(found) for bar in bars for found in re.findall(r"backup (\d+) completed", bar)]
    assert sorted(ended) == list(range(51, 76))

    assert fake.count("POST", "/backups/", 201) == 25
    assert fake.restores == [(ended[-1] - 50, ended[-1])]
    assert sorted(ended[1:]) == sorted(backup["id"] for backup in made)
    assert all(backup["status"] == "completed" for backup in made)

    sizes = [int(found) for bar in bars for found in re.findall(r"(\d+) MB", bar)]
    assert lines[-2] == f"25 of 25 backups completed, {sum(sizes)} MB."
    polls = fake.count("GET") - fake.count("GET", "page_size=20")
    assert lines[-1] == (
        f"{fake.count()} requests in all: the 25 waits together needed {polls}, for they share "
        "their looks at the list."
    )
    assert 0 < polls < 25
    assert fake.count() == 3 + 25 + polls + 2


@pytest.mark.virtual_time
async def test_the_demo_s_own_server_takes_a_few_seconds(capsys: pytest.CaptureFixture) -> None:
    begun = asyncio.get_running_loop().time()
    assert await command.demo() == 0
    assert 3 < asyncio.get_running_loop().time() - begun < 6
    assert "25 of 25 backups completed" in capsys.readouterr().out


@pytest.mark.virtual_time
async def test_a_demo_whose_backup_fails_says_so(capsys: pytest.CaptureFixture) -> None:
    assert await command.demo(FakeVPS(servers=25, fails=[7])) == 1
    said = capsys.readouterr()
    assert re.fullmatch(r"  server 7: backup 7 of server 7: the backup failed.*\n", said.err)
    assert "24/25" in said.out
    assert "Restoring" not in said.out
