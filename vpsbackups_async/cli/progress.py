"""Progress: two lines or three that are repainted on a terminal, a line each minute in a log."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.text import clock
from vpsbackups_async.client import ClientStats
from vpsbackups_async.models import Progress

__all__ = ["Display"]

_FIRST: Final = 1.0
"""Seconds until the first paint; shorter work shows no progress."""
_EVERY: Final = 0.25
"""Seconds between two paints."""
_EVERY_IN_A_LOG: Final = 60.0
"""Seconds between two lines where standard error is not a terminal."""
_BAR: Final = 30
"""Columns of the bar."""


class Display:
    """Shows a `Progress` while an `async with` block runs; pass `update` as `on_progress`.

    `what` names the work, `stats` gives the state of the client, and `outage` what fails now, in
    one line. `draw` may add to the lines before they are painted. `after` is in seconds, until the
    first paint.
    """

    def __init__(
        self,
        screen: Screen,
        what: str,
        stats: Callable[[], ClientStats],
        outage: Callable[[], str] = str,
        *,
        shown: bool = True,
        draw: Callable[[RenderableType], RenderableType] | None = None,
        after: float = _FIRST,
    ) -> None:
        self._screen = screen
        self._what = what
        self._stats = stats
        self._outage = outage
        self._shown = shown and not screen.quiet
        self._draw = draw
        self._after = after
        self._now: Progress | None = None
        self._clock: Callable[[], float] = float  # of the loop; a row may come from any thread
        self._began = 0.0
        self._ticking: asyncio.Task[None] | None = None

    def update(self, progress: Progress) -> None:
        """Take the latest numbers; the next paint shows them."""
        self._now = progress

    async def __aenter__(self) -> Self:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        if self._shown:
            tick = self._live() if self._screen.is_live else self._log()
            self._ticking = asyncio.create_task(tick)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
            self._screen.paint(None)

    async def _live(self) -> None:
        await asyncio.sleep(self._after)
        while True:
            self._screen.paint(self._drawn)
            await asyncio.sleep(_EVERY)

    def _drawn(self) -> RenderableType:
        lines = self.lines()
        return lines if self._draw is None else self._draw(lines)

    async def _log(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_IN_A_LOG)
            parts = (self._counted(), self._state(), self._outage())
            self._screen.note(f"{self._what}: {', '.join(filter(None, parts))}")

    def lines(self) -> RenderableType:
        """Two lines, a bar with the counts and the state of the requests, and one of an outage."""
        now = self._now
        total = None if now is None else now.total
        bar = ProgressBar(
            total=total or 1,
            completed=0 if now is None or not total else now.done,
            width=_BAR,
            pulse=not total,
            finished_style="green",
            complete_style="cyan",
            animation_time=self._elapsed(),
        )
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(self._what, "bold"), bar, Text(self._counted()))
        failed = now is not None and now.failed > 0
        lines: list[RenderableType] = [
            row,
            Text(f"  {self._state()}", "yellow" if failed else "dim"),
        ]
        if outage := self._outage():
            lines.append(Text(f"  {outage}", "red", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)

    def _elapsed(self) -> float:
        return self._clock() - self._began

    def _counted(self) -> str:
        """The counts, the rate, and the time that is left."""
        now = self._now
        if now is None:
            return clock(self._elapsed())
        if now.total is None:
            return f"{now.done:,} done, {now.rate:.1f}/s, {clock(self._elapsed())}"
        left = now.remaining
        rest = f", {now.rate:.1f}/s, {clock(left)} left" if left else f", {clock(self._elapsed())}"
        return f"{now.done:,} of {now.total:,}{rest}"

    def _state(self) -> str:
        """The failures, the items under way, and the limits that the API imposes."""
        now, stats = self._now, self._stats()
        parts = []
        if now is not None:
            parts = [f"{now.failed:,} failed", f"{now.running:,} under way"]
        if stats.limit is not None:
            parts.append(f"at most {stats.limit} requests at once")
        if stats.gate_closed_for > 0:
            parts.append(f"asked to wait (429): {clock(stats.gate_closed_for)}")
        return ", ".join(parts)
