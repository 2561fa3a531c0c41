"""The files that `report --html` and `audit --prometheus` write: replaced, or written into."""

import asyncio
import errno
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Here

from vpsbackups_async.testing import FakeVPS

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such files"),
    pytest.mark.parametrize(
        ("command", "words"),
        [
            (("report", "--html"), "<!DOCTYPE html>"),
            (("audit", "--rpo", "24h", "--prometheus"), "# HELP vpsbackups_"),
        ],
        ids=["report", "audit"],
    ),
]


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=2, backups=1) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Here:
    return Here(monkeypatch, capfd)


async def test_the_target_of_a_link_is_replaced_in_one_step(
    command: tuple[str, ...], words: str, fake: FakeVPS, run: Here, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    target, link = there / "page", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to("there/page")
    with target.open() as reader:
        assert (await run(*command, str(link), fake=fake)).code == 0
        assert reader.read() == "old"
    assert link.is_symlink()
    assert target.read_text().startswith(words)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [one.name for one in there.iterdir()] == ["page"]


async def test_a_link_to_nothing_yet_makes_its_target(
    command: tuple[str, ...], words: str, fake: FakeVPS, run: Here, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to("page")
    assert (await run(*command, str(link), fake=fake)).code == 0
    assert link.is_symlink()
    assert (tmp_path / "page").read_text().startswith(words)


async def test_a_pipe_is_written_into(
    command: tuple[str, ...], words: str, fake: FakeVPS, run: Here, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader, read = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(reader, lambda: read.extend(os.read(reader, 65_536)))
    try:
        assert (await run(*command, str(pipe), fake=fake)).code == 0
        read += os.read(reader, 65_536)
    finally:
        loop.remove_reader(reader)
        os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert read.decode().startswith(words)


async def test_a_full_device_is_one_line_and_stays_a_device(
    command: tuple[str, ...],
    words: str,
    fake: FakeVPS,
    run: Here,
    tmp_path: Path,
) -> None:
    node = tmp_path / "full"
    try:
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 7))
        with node.open("wb", buffering=0) as full:
            full.write(b"x")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            pytest.skip("no device can be made here")
    ended = await run(*command, str(node), fake=fake)
    assert (ended.code, ended.err) == (1, f"error: No space left on device: {node}\n")
    assert stat.S_ISCHR(node.lstat().st_mode)


@pytest.mark.parametrize(
    ("where", "why"), [("missing/page", "there is no such folder"), ("there", "it is a folder")]
)
async def test_what_cannot_be_a_file_is_refused_before_anything_is_read(
    command: tuple[str, ...],
    words: str,
    where: str,
    why: str,
    fake: FakeVPS,
    run: Here,
    tmp_path: Path,
) -> None:
    (tmp_path / "there").mkdir()
    file = str(tmp_path / where)
    ended = await run(*command, file, fake=fake)
    assert (ended.code, ended.out, fake.count()) == (2, "", 0)
    assert ended.err.splitlines()[0] == f"error: {command[-1]} {file!r}: {why}"
