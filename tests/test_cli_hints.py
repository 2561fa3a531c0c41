"""What the command line says to do: the hint fits what failed, and the command that failed."""

import time
from collections.abc import AsyncIterator

import pytest
from helpers_cli import Here

from vpsbackups_async.testing import FakeVPS, Reply


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=2, backups=1, clock=time.time) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Here:
    return Here(monkeypatch, capfd)


URL = "heck the URL (VPS_API_URL or --url)"
SERVER = "Check the id of the server: it may be gone, or another account's"
NOT_FOUND = Reply(404, b'{"detail": "Not found."}')
PAGE = Reply(200, b"<!DOCTYPE html><title>Log in</title>", {"Content-Type": "text/html"})
OF_A_PROXY = Reply(404, b"<html><h1>Not Found</h1></html>", {"Content-Type": "text/html"})
FORBIDDEN = Reply(403, b'{"detail": "No."}')
BUSY = Reply(429, b'{"detail": "Slow."}', {"Retry-After": "3600"})


@pytest.mark.parametrize(
    ("reply", "command", "hint"),
    [
        (NOT_FOUND, "list", URL),
        (NOT_FOUND, "servers", URL),
        (NOT_FOUND, "audit --rpo 24h", URL),
        (NOT_FOUND, "list -s 99", SERVER),
        (NOT_FOUND, "show 99 --latest", SERVER),
        (NOT_FOUND, "create 99", SERVER),
        (OF_A_PROXY, "list", URL),
        (OF_A_PROXY, "servers", URL),
        (OF_A_PROXY, "list -s 99", URL),
        (PAGE, "list", f"{URL}: it seems to be that of a web page"),
        (PAGE, "servers", f"{URL}: it seems to be that of a web page"),
        (PAGE, "audit --rpo 1d", f"{URL}: it seems to be that of a web page"),
        (FORBIDDEN, "list", "Ask the owner of the account for a token that may read backups"),
        (FORBIDDEN, "list -s 1", "with access to this server's backups"),
        (FORBIDDEN, "servers", "Name the servers by their ids"),
        (BUSY, "create 1", "Try again later, or with fewer at once (--concurrency)"),
    ],
)  # fmt: skip
async def test_the_hint_fits_what_failed(
    reply: Reply, command: str, hint: str, fake: FakeVPS, run: Here
) -> None:
    fake.inject(reply)
    ended = await run(*command.split(), fake=fake)
    assert (ended.code, ended.out) == (1, "")
    assert hint in ended.err
    assert "report it" not in ended.err
    assert "List the backups" not in ended.err


@pytest.mark.parametrize("command", ["list", "list -s 1 -s 2", "servers", "delete 1:1 --yes"])
async def test_an_option_that_the_command_does_not_have_is_not_recommended(
    command: str, fake: FakeVPS, run: Here
) -> None:
    fake.inject(BUSY)
    ended = await run(*command.split(), fake=fake)
    assert ended.code == 1
    assert "Try again later" in ended.err
    assert "--concurrency" not in ended.err


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("run submit", "vpsbackups run submit --help"),
        ("run submit x", "vpsbackups run submit --help"),
        ("run lost", "vpsbackups run --help"),
        ("run --lost", "vpsbackups run --help"),
        ("list run submit", "vpsbackups list --help"),
    ],
)
async def test_the_help_is_that_of_the_command_below_run(
    command: str, hint: str, run: Here
) -> None:
    ended = await run(*command.split())
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == f"{hint} tells more"
