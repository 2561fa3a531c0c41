"""`vpsbackups units`: services and timers that systemd accepts."""

import asyncio
import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_cli import Here

from vpsbackups_async.testing import FakeVPS

NAMES = [
    "vpsbackups-rotate.service", "vpsbackups-rotate.timer", "vpsbackups-audit.service",
    "vpsbackups-audit.timer",
]  # fmt: skip


def read(file: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(file.read_text("utf-8"))
    return parsed


async def test_a_service_and_a_timer_are_written_for_each_command(
    run: Here, tmp_path: Path
) -> None:
    ended = await run("units", str(tmp_path))
    assert ended.code == 0
    assert ended.lines == [str(tmp_path / name) for name in NAMES]
    assert "enable --now vpsbackups-rotate.timer vpsbackups-audit.timer" in ended.err
    for name in NAMES[1::2]:
        timer = read(tmp_path / name)["Timer"]
        assert timer["Persistent"] == "true"
    assert read(tmp_path / NAMES[1])["Timer"]["OnCalendar"] == "*-*-* 02:00:00"
    service = read(tmp_path / NAMES[0])["Service"]
    assert service["LoadCredential"] == "vps-token:/etc/vpsbackups/token"
    assert service["ExecStart"] == (
        f"{sys.executable} -m vpsbackups_async rotate --all --job nightly --keep-daily 4 "
        "--keep-weekly 4 --token-file %d/vps-token"
    )


async def test_no_unit_holds_the_token(run: Here, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("vps_canary")
    await run("units", str(tmp_path), "--token-file", str(token), VPS_API_TOKEN="vps_canary")
    texts = [(tmp_path / name).read_text() for name in NAMES]
    assert not any("vps_canary" in text for text in texts)
    assert f"LoadCredential=vps-token:{token}" in texts[0]


async def test_the_audit_of_the_unit_runs_with_the_credential(
    fake: FakeVPS, run: Here, tmp_path: Path
) -> None:
    (tmp_path / "vps-token").write_text(fake.token)
    options = "--rpo 26h --quiet"
    await run("units", str(tmp_path), "--audit", options, "--url", fake.url, fake=fake)
    command = read(tmp_path / NAMES[2])["Service"]["ExecStart"].replace("%d", str(tmp_path))
    words = command.split()
    assert words[:3] == [sys.executable, "-m", "vpsbackups_async"]
    ended = await run(*words[3:])
    assert (ended.code, len(ended.lines)) == (0, 3)


async def test_what_systemd_would_read_otherwise_is_quoted(run: Here, tmp_path: Path) -> None:
    await run("units", str(tmp_path), "--rotate", "--description 'at 5% of $HOME \"\\\\'")
    line = read(tmp_path / NAMES[0])["Service"]["ExecStart"]
    assert r'--description "at 5%% of $$HOME \"\\\\"' in line


async def test_units_that_differ_are_replaced_only_if_asked_to(run: Here, tmp_path: Path) -> None:
    assert (await run("units", str(tmp_path))).code == 0
    assert (await run("units", str(tmp_path))).code == 0
    other = ("units", str(tmp_path), "--audit", "--rpo 48h")
    ended = await run(*other)
    assert (ended.code, "--force" in ended.err) == (2, True)
    assert "26h" in (tmp_path / NAMES[2]).read_text()
    assert (await run(*other, "--force")).code == 0
    assert "48h" in (tmp_path / NAMES[2]).read_text()


@pytest.mark.parametrize(
    "options",
    [
        ["--rotate", "'open"],
        ["--audit", "--rpo 1d --token-file=/x"],
        ["--audit", "--rpo '1d\n2d'"],
        ["--rotate-at", "daily\nOnBootSec=1"],
    ],
)
async def test_options_that_no_unit_can_have_are_refused(
    run: Here, tmp_path: Path, options: list[str]
) -> None:
    ended = await run("units", str(tmp_path), *options)
    assert ended.code == 2
    assert not any((tmp_path / name).exists() for name in NAMES)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
async def test_systemd_finds_nothing_wrong_with_them(run: Here, tmp_path: Path) -> None:
    await run("units", str(tmp_path), "--rotate", "--all --description 'a b % $x \"'")
    done = await asyncio.to_thread(
        subprocess.run,
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in NAMES)],
        capture_output=True,
        text=True,
    )
    ours = [line for line in done.stderr.splitlines() if "vpsbackups" in line]
    assert (ours, done.returncode) == ([], 0)


async def test_a_directory_that_is_not_there_is_an_error(run: Here, tmp_path: Path) -> None:
    assert (await run("units", str(tmp_path / "missing"))).code == 1
