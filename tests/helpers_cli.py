"""Run the command line in a new process or in this one, with pipes or on a terminal."""

import asyncio
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import pytest

from vpsbackups_async.cli import main
from vpsbackups_async.testing import FakeVPS

if sys.platform != "win32":
    import fcntl
    import pty
    import struct
    import termios

COLOUR_VARIABLES: Final = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
PLAIN: Final = {"NO_COLOR": "1"}
COMMAND = (sys.executable, "-W", "error", "-m", "vpsbackups_async")


async def call(*arguments: str) -> int:
    """Run the command in a thread of this process and return its exit code."""
    return await asyncio.to_thread(main, arguments)


class Ended:
    """The exit code and output of a command that has ended."""

    def __init__(self, code: int | None, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out.decode()
        self.err = err.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def environment(fake: FakeVPS | None, **more: str) -> dict[str, str]:
    """This process's environment without its VPS_ variables, plus the token and URL of `fake`."""
    given = {name: text for name, text in os.environ.items() if not name.startswith("VPS_")}
    # Colours and widths must not depend on the terminal that the tests run on, nor what is
    # buffered on a setting of Python.
    for name in ("COLUMNS", "LINES", "TERM", "PYTHONUNBUFFERED", *COLOUR_VARIABLES):
        given.pop(name, None)
    if fake is not None:
        given |= {"VPS_API_TOKEN": fake.token, "VPS_API_URL": fake.url}
    return given | {"PYTHONIOENCODING": "utf-8"} | more


async def start(
    *arguments: str,
    fake: FakeVPS | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    **more: str,
) -> asyncio.subprocess.Process:
    """Start the command in a new process."""
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        env=environment(fake, **more),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


async def run(
    *arguments: str, fake: FakeVPS | None = None, given: str | None = None, **more: str
) -> Ended:
    """Run the command in a new process until it ends; `given` is its standard input."""
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    process = await start(*arguments, fake=fake, stdin=stdin, **more)
    out, err = await process.communicate(None if given is None else given.encode())
    return Ended(process.returncode, out, err)


class Here:
    """Runs the command in a thread of this process, where coverage can measure it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    async def __call__(
        self, *arguments: str, fake: FakeVPS | None = None, given: str = "", **more: str
    ) -> Ended:
        set_environment(self._monkeypatch, environment(fake, **more))
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        self._capfd.readouterr()
        code = await asyncio.to_thread(main, arguments)
        said = self._capfd.readouterr()
        return Ended(code, said.out.encode(), said.err.encode())


def set_environment(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name in os.environ.keys() - given.keys():
        monkeypatch.delenv(name)
    for name, text in given.items():
        monkeypatch.setenv(name, text)


class Terminal:
    """Runs the command in a new process on a pseudo-terminal of so many columns.

    It has 24 lines, or 40 if it is at least 120 columns wide.

    `raw` is everything that it has written so far, `code` its exit code once it has ended.
    """

    def __init__(
        self,
        *arguments: str,
        fake: FakeVPS | None = None,
        columns: int = 80,
        variables: Mapping[str, str] = PLAIN,
    ) -> None:
        self._arguments = arguments
        self._environment = environment(fake, TERM="xterm-256color", **variables)
        self._columns = columns
        self._lines = 40 if columns >= 120 else 24
        self.raw = ""
        self._closed = False
        self.code: int | None = None

    async def __aenter__(self) -> Self:
        theirs = self._open()
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *self._arguments,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        return self

    def _open(self) -> int:
        self._mine, theirs = pty.openpty()
        size = struct.pack("HHHH", self._lines, self._columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        os.set_blocking(self._mine, False)
        self._came = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._mine, self._read)
        return theirs

    def _read(self) -> None:
        try:
            data = os.read(self._mine, 65_536)
        except OSError:  # Linux raises this once the other end is closed everywhere
            data = b""
        if not data:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._mine)
        self.raw += data.decode("utf-8", "replace").replace("\r\n", "\n")
        self._came.set()

    async def shows(self, words: str) -> None:
        """Wait until the output contains `words`. Raises TimeoutError after 30 s."""
        async with asyncio.timeout(30):
            while words not in self.raw:
                self._came.clear()
                await self._came.wait()

    def enter(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def interrupt(self, by: signal.Signals = signal.SIGINT) -> None:
        self._process.send_signal(by)

    async def end(self) -> str:
        """Wait until the command ends and return the final text on the screen."""
        self.code = await self._process.wait()
        return await self._rest()

    async def _rest(self) -> str:
        async with asyncio.timeout(30):
            while not self._closed:
                self._came.clear()
                await self._came.wait()
        return screen(self.raw)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._mine)
        os.close(self._mine)


class TerminalHere(Terminal):
    """A `Terminal` whose command runs in a thread of this process."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *arguments: str,
        fake: FakeVPS | None = None,
        columns: int = 80,
        variables: Mapping[str, str] = PLAIN,
    ) -> None:
        super().__init__(*arguments, fake=fake, columns=columns, variables=variables)
        self._monkeypatch = monkeypatch

    async def __aenter__(self) -> Self:
        theirs = self._open()
        size = {"COLUMNS": str(self._columns), "LINES": str(self._lines)}
        set_environment(self._monkeypatch, self._environment | size)
        self._running = asyncio.create_task(asyncio.to_thread(self._run, theirs))
        return self

    def _run(self, theirs: int) -> int:
        with os.fdopen(theirs, "w") as out, os.fdopen(os.dup(theirs)) as given:
            self._monkeypatch.setattr(sys, "stdin", given)
            self._monkeypatch.setattr(sys, "stdout", out)
            self._monkeypatch.setattr(sys, "stderr", out)
            return main(self._arguments)

    async def end(self) -> str:
        """Wait until the command ends and return the final text on the screen."""
        self.code = await self._running
        return await self._rest()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._monkeypatch.undo()
        asyncio.get_running_loop().remove_reader(self._mine)
        os.close(self._mine)


def screen(raw: str) -> str:
    """The text that a terminal shows after this output, without overwritten lines."""
    lines = [""]
    for part in re.split(r"(\r|\n|\x1b\[1A|\x1b\[2K)", raw):
        if part == "\n":
            lines.append("")
        elif part == "\x1b[1A":
            lines.pop()
        elif part in {"\r", "\x1b[2K"}:
            lines[-1] = ""
        else:
            lines[-1] += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part)
    return "\n".join(lines)
