"""Pipes whose reader has gone, and devices that are full: what is written is lost, and no more."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import COMMAND, Here, environment

from vpsbackups_async.testing import FakeVPS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=2, backups=1, clock=time.time) as server:
        yield server


async def ended(*words: str, broken: str, fake: FakeVPS | None = None) -> tuple[int | None, bytes]:
    """The exit code, and what the other stream got, where nobody reads the one that is `broken`."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    streams[broken] = writer
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *words, env=environment(fake), stdin=asyncio.subprocess.DEVNULL, **streams
    )
    os.close(writer)
    out, err = await process.communicate()
    return process.returncode, (err if broken == "stdout" else out)


@pytest.mark.parametrize("words", ["--help", "create --help", "run --help", "run submit -h", "-h"])
async def test_help_of_which_only_the_start_is_read_is_fine(words: str) -> None:
    assert await ended(*words.split(), broken="stdout") == (0, b"")


async def test_results_are_written_where_nobody_reads_the_notes(fake: FakeVPS) -> None:
    assert await ended("create", "1", "2", broken="stderr", fake=fake) == (0, b"3:1\n4:2\n")


async def test_run_alone_is_its_help_as_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    said = await Here(monkeypatch, capfd)("run")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("Usage: vpsbackups run COMMAND\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_fake_whose_output_cannot_be_written_says_so() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "fake"],
            env=environment(None),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")
