"""Runs commands in bash on a terminal of 100 columns, as a reader of the README types them."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

from attrs import frozen
from helpers_cli import environment, screen

from vpsbackups_async.testing import FakeVPS


@frozen
class Step:
    """A command of an example, and the lines that it shows there."""

    command: str
    shown: tuple[str, ...]


def steps_of(block: str) -> list[Step]:
    """The commands of a block, which begin with `$ `, each with what follows it."""
    steps: list[Step] = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        steps.append(Step(command, tuple(shown)))
    return steps


def typed(command: str, fake: FakeVPS, folder: Path) -> tuple[int, list[str]]:
    """The exit code of a command that is typed in `folder`, and the lines on the screen then."""
    tool = folder / "bin" / "vpsbackups"
    if not tool.exists():
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vpsbackups_async "$@"\n')
        tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment(fake, PATH=path, NO_COLOR="1", TERM="xterm-256color"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    raw = bytearray()
    try:
        while data := os.read(mine, 65_536):
            raw += data
    except OSError:  # Linux raises this once the other end is closed everywhere
        pass
    finally:
        os.close(mine)
    shown = screen(raw.decode().replace("\r\n", "\n"))
    return process.wait(), [line.rstrip() for line in shown.rstrip().splitlines()]


def settled(lines: list[str] | tuple[str, ...]) -> list[str]:
    """The lines without what differs from run to run: how long things took, and so the widths."""
    untimed = [re.sub(r"\b\d+:\d\d\b(?! *\w)|\b\d+s\b", "-", line) for line in lines]
    return [re.sub(" +", " ", line) for line in untimed]
