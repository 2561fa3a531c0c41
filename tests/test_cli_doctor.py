"""`vpsbackups doctor`: a line for each check, with what to do, and no secret."""

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Ended, Here, TerminalHere

from vpsbackups_async.testing import FakeVPS, Reply


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=30, backups=5, clock=time.time) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Here:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return Here(monkeypatch, capfd)


def found(ended: Ended) -> dict[str, tuple[str, str]]:
    """The mark and the text of each line, by what was checked."""
    lines = (re.fullmatch(r"(ok|warn|FAIL) +(\w+(?: size)?) +(.*)", line) for line in ended.lines)
    return {line[2]: (line[1], line[3]) for line in lines if line}


async def test_where_all_is_well_each_line_says_so(fake: FakeVPS, run: Here) -> None:
    ended = await run("doctor", fake=fake)
    lines = found(ended)
    assert ended.code == 0
    assert ended.err == ""
    assert {mark for mark, _ in lines.values()} == {"ok"}
    assert list(lines) == [
        "versions", "proxy", "url", "token", "account", "allowed", "servers", "backups",
        "page size", "clock",
    ]  # fmt: skip
    assert lines["url"][1] == f"{fake.url}/api/v1 (VPS_API_URL)"
    assert lines["servers"][1] == "30 servers"
    assert lines["backups"][1].startswith("150 backups, read in ")
    assert lines["page size"][1] == "100 a page, as asked for"
    assert fake.token not in ended.out
    assert fake.count() == fake.count("GET") == 3


async def test_a_refused_token_is_exit_code_3_and_is_not_shown(fake: FakeVPS, run: Here) -> None:
    fake.revoke()
    ended = await run("doctor", fake=fake)
    assert ended.code == 3
    assert found(ended)["account"][0] == "FAIL"
    assert "Check the token (VPS_API_TOKEN or --token-file)" in ended.out
    assert fake.token not in ended.out + ended.err


async def test_what_is_odd_is_a_warning_with_what_to_do(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    fake.max_page_size = 20
    file = tmp_path / "token"
    file.write_text(fake.token)
    file.chmod(0o644)
    ended = await run(
        "doctor", "--token-file", str(file), fake=fake, HTTPS_PROXY="http://user:word@proxy:3128"
    )
    lines = found(ended)
    assert ended.code == 0
    assert lines["proxy"] == ("warn", "none, although HTTPS_PROXY is set")
    assert lines["page size"] == ("warn", "20 a page of 100 asked for")
    assert lines["token"] == ("warn", f"from the token file {str(file)!r}, mode 0644")
    assert f"chmod 600 {file}" in ended.out
    assert "word" not in ended.out


@pytest.mark.parametrize(
    ("backups", "paging", "line"),
    [
        (30, "pages", ("ok", "not known: all there is fits into a page")),
        (100, "pages", ("ok", "not known: all there is fits into a page")),
        (130, "none", ("ok", "130 at once of 100 asked for")),
    ],
)
async def test_doctor_says_also_where_one_page_is_all_whether_its_size_is_taken(
    backups: int, paging: str, line: tuple[str, str], run: Here
) -> None:
    async with FakeVPS(servers=10, backups=backups // 10, clock=time.time) as fake:
        if paging == "none":
            fake.paging = "none"
        ended = await run("doctor", fake=fake)
    assert (ended.code, found(ended)["page size"]) == (0, line)


@pytest.mark.parametrize(
    ("permissions", "words"),
    [
        (["servers:read"], "servers:read: none names backups"),
        (["backups:read", "servers:write"], "backups:read, servers:write: no more than reading"),
        (["view_backup"], "view_backup: no more than reading"),
        (["role_7"], "role_7: none names backups"),
        (["breadbackups"], ""),
        (["backups:write"], ""),
        (["*"], ""),
        (["Admin"], ""),
    ],
)
async def test_permissions_that_do_not_name_the_changing_of_backups_are_a_warning(
    permissions: list[str], words: str, run: Here
) -> None:
    answer = {"account": {"email": "me@example.com"}, "token": {"permissions": permissions}}
    async with FakeVPS(servers=1, backups=1, clock=time.time) as fake:
        fake.inject(Reply(200, json.dumps(answer).encode(), path="/account/me/"))
        ended = await run("doctor", fake=fake)
    mark, text = found(ended)["allowed"]
    assert (ended.code, mark) == (0, "warn" if words else "ok")
    assert text.startswith(words or ", ".join(permissions))
    assert ("were not tried" in ended.out) == bool(words)


@pytest.mark.parametrize("status", [403, 404])
async def test_a_token_that_is_not_given_the_account_is_a_warning(
    status: int, fake: FakeVPS, run: Here
) -> None:
    fake.inject(Reply(status, b'{"detail": "No."}', path="/account/me/"))
    ended = await run("doctor", fake=fake)
    assert ended.code == 0
    assert found(ended)["account"][0] == "warn"
    assert "nothing else depends on it" in ended.out
    assert found(ended)["backups"][0] == "ok"


async def test_a_clock_that_differs_is_a_warning(run: Here) -> None:
    async with FakeVPS(servers=1, backups=1, clock=lambda: time.time() + 600) as fake:
        ended = await run("doctor", fake=fake)
    mark, text = found(ended)["clock"]
    assert mark == "warn"
    assert re.fullmatch(r"(599|600|601) s behind the server's", text)
    assert "NTP" in ended.out


async def test_one_check_that_fails_does_not_stop_the_others(fake: FakeVPS, run: Here) -> None:
    fake.inject(Reply(403, b'{"detail": "Not yours."}', path="/servers/"))
    ended = await run("doctor", fake=fake)
    lines = found(ended)
    assert ended.code == 1
    assert lines["servers"][0] == "FAIL"
    assert lines["servers"][1].startswith("403 Not yours.")
    assert lines["clock"][0] == "ok"


async def test_an_api_that_is_not_there_is_said_soon(run: Here) -> None:
    async with FakeVPS() as fake:
        pass
    ended = await run("doctor", fake=fake)
    assert ended.code == 1
    assert "no connection to 127.0.0.1:" in found(ended)["backups"][1]


async def test_settings_that_are_wrong_are_exit_code_2(run: Here) -> None:
    ended = await run("doctor")
    assert (ended.code, found(ended)["settings"][0]) == (2, "FAIL")
    assert "set VPS_API_TOKEN, or give --token-file FILE" in ended.out


async def test_a_terminal_gets_the_same_lines(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TerminalHere(monkeypatch, "doctor", fake=fake) as terminal:
        shown = await terminal.end()
    assert "ok   clock      within 1 s of the server's" in shown
