"""What a command writes: results to standard output, everything else to standard error.

If both are the same terminal, results are written above the live display. What is written depends
on whether the stream is a terminal; rich decides on colours only, for `FORCE_COLOR` makes it take a
pipe for a terminal.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, RenderableType
from rich.text import Text

__all__ = ["Screen", "Terminal"]


class Terminal(Console):
    """A console that raises `BrokenPipeError` where nobody reads it.

    One of rich would close standard output, whichever stream it is of, and end with exit code 1.
    """

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704  # called while it is handled


class Screen:
    """Both streams of a command. `quiet` suppresses progress and summaries, but not errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.out: Console = _console(stderr=False)
        self.err: Console = _console(stderr=True)
        self._painted: Callable[[], RenderableType] | None = None
        self._height = 0

    @property
    def shows_tables(self) -> bool:
        """Whether standard output is a terminal."""
        return self.out.file.isatty()

    @property
    def is_watched(self) -> bool:
        """Whether standard error is a terminal."""
        return self.err.file.isatty()

    @property
    def is_live(self) -> bool:
        """Whether the terminal can repaint lines."""
        return self.is_watched and not (self.err.is_dumb_terminal or self.err.legacy_windows)

    def note(self, text: str, style: str = "", *, exact: bool = False) -> None:
        """Write to standard error. A terminal wraps the text, unless it must stay `exact`.

        Where that fails (the terminal is gone, the disk full) it is lost, and the work goes on.
        """
        with suppress(OSError), self._above():
            self.err.print(Text(text, style), soft_wrap=exact or not self.is_watched)

    def summary(self, text: str, *, exact: bool = False) -> None:
        """Write to standard error, as `note` does, unless the screen is quiet."""
        if not self.quiet:
            self.note(text, exact=exact)

    def error(self, said: str, hint: str = "") -> None:
        """Write an error to standard error, and what to do about it."""
        lines = Text.assemble(("error: ", "bold red"), said)
        if hint:
            lines.append(f"\n{hint}")
        with suppress(OSError), self._above():
            self.err.print(lines, soft_wrap=not self.is_watched)

    def result(self, text: str) -> None:
        """Write one or more lines to standard output, and flush them."""
        with self._above():
            if self.shows_tables:
                self.out.print(Text(text))
            else:
                self.raw(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "replace"))

    def table(self, lines: list[Text], console: Console) -> None:
        """Write lines to a terminal, each cut at its edge."""
        with self._above():
            console.print(Text("\n").join(lines), no_wrap=True, overflow="ellipsis", crop=True)

    def raw(self, data: bytes) -> None:
        """Write bytes to standard output, and flush them; an `OSError` names it as its file."""
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            error.filename = "standard output"
            raise

    def paint(self, draw: Callable[[], RenderableType] | None) -> None:
        """Replace the live display by what `draw` gives, now and below each row; None removes."""
        text, height = "", 0
        if draw is not None:
            with self.err.capture() as capture:
                self.err.print(draw())
            # What is higher than the terminal cannot be erased again.
            lines = capture.get().splitlines(keepends=True)[: max(1, self.err.height - 1)]
            text, height = "".join(lines), len(lines)
        self._write(_erase(self._height) + text)
        self._painted, self._height = draw, height

    @contextmanager
    def _above(self) -> Iterator[None]:
        """Remove the live display, and paint it again below what is written meanwhile."""
        draw = self._painted
        if draw is not None:
            self.paint(None)
        yield
        if draw is not None:
            self.paint(draw)

    @staticmethod
    def _write(text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _erase(height: int) -> str:
    return "\r" + "\x1b[1A\x1b[2K" * height if height else ""


def _console(*, stderr: bool) -> Console:
    return Terminal(stderr=stderr, highlight=False, markup=False, emoji=False)
