"""Backups from start to end: a row for each, failures, counts, and how to wait for the rest."""

import textwrap
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self, TypeVar

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.layouts import BACKUPS
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import clock
from vpsbackups_async.errors import WaitError, WaitTimeoutError
from vpsbackups_async.events import CreateEnded, Event
from vpsbackups_async.models import Backup, BackupRef, Outcome

__all__ = ["Tracker"]

K = TypeVar("K", int, BackupRef)

_ON_ONE_LINE: Final = 5
_AT_MOST: Final = 1000
"""Refs that are printed to be copied; more are left to `vpsbackups list`."""


class Tracker:
    """Tracks the backups that a command starts, or those `running` that it waits for.

    A backup gets its row when it is completed if the command `waits`, else when it is started.
    `planned` is how many backups are to be started. Leaving the context closes the session, and
    names the backups that may still be running.
    """

    def __init__(
        self,
        common: Common,
        *,
        waits: bool,
        planned: int = 0,
        running: Iterable[BackupRef] = (),
    ) -> None:
        self.session: Session = Session(common, on_event=self._on_event)
        self._screen = self.session.screen
        self._waits = waits
        self._planned = planned
        self._running = {ref.id: ref for ref in running}
        self._failures = Failures(self._screen)
        self._table = Table(self._screen, BACKUPS) if self._screen.shows_tables else None
        self._started = self._completed = 0
        self._write_error: OSError | None = None

    def __enter__(self) -> Self:
        self.session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing the client waits for creates that are under way, and emits their events.
        try:
            self.session.__exit__(kind, error, traceback)
        finally:
            self._say_how_to_go_on(interrupted=error is not None)

    async def follow(self, outcomes: AsyncGenerator[Outcome[K, Backup]]) -> None:
        """Show the outcomes as they come. Raises `OSError` if a row cannot be written."""
        async with aclosing(outcomes):
            async for outcome in outcomes:
                if outcome.error is not None:
                    self._on_failure(outcome.key, outcome.error)
                elif self._waits:
                    self._on_completed(outcome.unwrap())
                if self._write_error is not None:
                    raise self._write_error

    def has_ended(self, ref: BackupRef) -> None:
        """Note at once that a backup runs no more; its row may come later, or not at all."""
        self._running.pop(ref.id, None)

    def has_none_running(self, server_id: int) -> None:
        """Note that no backup of the server runs any more."""
        self._running = {
            number: ref for number, ref in self._running.items() if ref.server_id != server_id
        }

    def end(self) -> Exit:
        """Say what became of them all; the exit code."""
        code = self._failures.close()
        done = f"{self._completed:,} completed" if self._waits else f"{self._started:,} started"
        failed = self._failures.count
        took = clock(self.session.elapsed)
        self._screen.summary(f"{done}{f', {failed:,} failed' if failed else ''}, in {took}")
        return code

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, CreateEnded) or event.backup is None:
            return
        self._started += 1
        self._running[event.backup.id] = event.backup.ref
        if not self._waits:
            self._show(event.backup)

    def _on_completed(self, backup: Backup) -> None:
        self._running.pop(backup.id, None)
        self._completed += 1
        self._show(backup)

    def _on_failure(self, key: int | BackupRef, error: Exception) -> None:
        if isinstance(error, WaitError) and not isinstance(error, WaitTimeoutError):
            self._running.pop(error.ref.id, None)
        what = f"backup {written(key)}" if isinstance(key, BackupRef) else f"server {key}"
        self._failures.add(what, error)

    def _show(self, backup: Backup) -> None:
        try:
            if self._table is None:
                self._screen.result(written(backup.ref))
            else:
                self._table.rows([backup])
        except OSError as error:
            # Raised by `follow`: an event callback must not raise, and this backup is tracked.
            self._write_error = error

    def _say_how_to_go_on(self, *, interrupted: bool) -> None:
        """Name the backups that may still be running, if the command was to wait for them."""
        if not interrupted and not (self._waits and self._running):
            return
        refs = [written(ref) for ref in self._running.values()]
        if interrupted and self._planned:
            self._screen.note(
                f"interrupted: {self._started:,} of {self._planned:,} backups were started"
            )
        if not refs:
            return
        self._screen.note(f"{len(refs):,} may still be running; to wait for them:")
        if len(refs) <= _ON_ONE_LINE:
            self._screen.note(f"vpsbackups wait {' '.join(refs)}", exact=True)
        elif len(refs) <= _AT_MOST:
            lines = textwrap.wrap(" ".join(refs), 79, break_on_hyphens=False)
            self._screen.note(
                "\n".join(["vpsbackups wait --from - <<END", *lines, "END"]), exact=True
            )
        else:
            self._screen.note(
                "vpsbackups list --type manual --status in_progress | vpsbackups wait --from -",
                exact=True,
            )
