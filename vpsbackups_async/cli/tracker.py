"""Backups from start to end: a row for each, failures, counts, and how to wait for the rest."""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self, TypeVar

from vpsbackups_async.cli import pasting
from vpsbackups_async.cli.ends import Exit, end_of
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.layouts import BACKUPS
from vpsbackups_async.cli.not_made import NotMade, is_certain
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.outcomes import INTERRUPTED, NOT_BEGUN, Outcomes
from vpsbackups_async.cli.pasting import given, to_paste
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import clock, counted
from vpsbackups_async.errors import (
    BackupDisappearedError,
    BackupFailedError,
    WaitError,
    WaitTimeoutError,
)
from vpsbackups_async.events import BackupCompleted, CreateEnded, Event
from vpsbackups_async.models import Backup, BackupRef, Outcome

__all__ = ["Tracker"]

K = TypeVar("K", int, BackupRef)


class Tracker:
    """Tracks the backups that a command starts, or those `running` that it waits for.

    A backup gets its row when it is completed if the command `waits`, else when it is started.
    `servers` are those that backups are to be started of, None if they are not known yet. With
    `as_outcomes` an object for each item is written instead of the rows. `again` is the command
    that makes a backup of servers of which it is not known whether they got one. Leaving the
    context closes the session, names the backups that may still be running, and writes the servers
    that got none to `not_made`. `more_of` gives further fields for a server of which no outcome was
    written before an interruption, and is given if its work does not end with its backup.
    """

    def __init__(
        self,
        common: Common,
        *,
        waits: bool,
        servers: Collection[int] | None = None,
        running: Iterable[BackupRef] = (),
        as_outcomes: bool = False,
        not_made: NotMade | None = None,
        again: str = "",
        more_of: Callable[[int], Mapping[str, object]] | None = None,
    ) -> None:
        self.session: Session = Session(common)
        self.session.hear(self._on_event)
        self._screen = self.session.screen
        self._waits = waits
        self._servers = servers
        self._running = dict.fromkeys(running)  # in the order in which they began
        self.given: str = given(common)
        """The options that a printed command must have."""
        is_create = bool(again)  # no other command has one
        self._failures = Failures(self._screen, concurrency=is_create, given=self.given)
        self.outcomes: Outcomes | None = Outcomes(self._screen) if as_outcomes else None
        """Where outcomes are written; None where rows are."""
        self._not_made = not_made
        self._again = again
        self._more_of = more_of
        self._table = Table(self._screen, BACKUPS) if self._screen.shows_tables else None
        self._started = self._completed = self._existing = 0
        self._begun: set[int] = set()
        self._ended: set[int] = set()  # whose creates ended, or whose outcome was written
        self._kept: set[int] = set()  # that got a backup, or may have got one
        self._doubtful: dict[int, None] = {}  # in the order in which they failed
        # What is known of items of which no outcome was written yet.
        self._untold: dict[int, Backup | Exception] = {}
        self._makes = not self._running
        # Those whose outcome is not written yet, as they were last seen.
        self._waited: dict[BackupRef, Backup | None] = (
            dict.fromkeys(self._running) if as_outcomes else {}
        )
        self._write_error: OSError | None = None

    def __enter__(self) -> Self:
        if self._not_made is not None:
            self._not_made.begin()
        self.session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cut_short = True
        # Closing the client waits for creates that are under way, and emits their events.
        try:
            self.session.__exit__(kind, error, traceback)
            cut_short = False
        finally:
            failed = self._write_not_made(cut_short=cut_short)
            if error is not None:
                self._write_rest()
            self._say_how_to_go_on(error)
        if failed is not None and error is None:
            raise failed

    def begin(self, server_id: int) -> None:
        """Note that work on a server begins."""
        self._begun.add(server_id)
        if self.outcomes is not None:
            self.outcomes.begin(server_id)

    async def follow(self, outcomes: AsyncGenerator[Outcome[K, Backup]]) -> None:
        """Show the outcomes as they come. Raises `OSError` if a row cannot be written."""
        async with aclosing(outcomes):
            async for outcome in outcomes:
                backup = outcome.value if outcome.ok else None
                error = outcome.error or _failure_of(backup)
                if error is not None:
                    self._on_failure(outcome.key, error)
                elif self._waits and backup is not None:
                    self._on_completed(backup)
                if self._write_error is not None:
                    raise self._write_error
                self.write(outcome.key, backup, error)

    def write(
        self, key: int | BackupRef, backup: Backup | None, error: Exception | None, **more: object
    ) -> None:
        """Write how an item ended, if outcomes are written, with `more` fields.

        If it failed after its backup was seen, that is written as it was then. Raises `OSError`.
        """
        if isinstance(key, BackupRef):
            seen: Backup | Exception | None = self._waited.pop(key, None)
        else:
            seen = self._untold.pop(key, None)
            self._ended.add(key)
        if isinstance(error, BackupFailedError):
            seen = error.backup or seen
        elif isinstance(error, BackupDisappearedError):
            seen = error.last_seen or seen
        if self.outcomes is not None:
            last = seen if isinstance(seen, Backup) else None
            self.outcomes.write(key, backup or last, error, **more)

    def saw(self, ref: BackupRef, backup: Backup | None) -> None:
        """Note the backup as a look showed it, if outcomes are written."""
        if ref in self._waited:
            self._waited[ref] = backup

    def has_ended(self, ref: BackupRef) -> None:
        """Note at once that a backup runs no more; its row may come later, or not at all."""
        self._running.pop(ref, None)
        self._running.pop(BackupRef(ref.id), None)

    def has_none_running(self, server_id: int) -> None:
        """Note that no backup of the server runs any more."""
        self._running = {ref: None for ref in self._running if ref.server_id != server_id}

    def end(self) -> Exit:
        """Say what became of them all; the exit code."""
        code = self._failures.close()
        done = f"{self._completed:,} completed" if self._waits else f"{self._started:,} started"
        there = f", {self._existing:,} there already" if self._existing else ""
        failed = f", {self._failures.count:,} failed" if self._failures.count else ""
        took = clock(self.session.elapsed)
        self._screen.summary(f"{done}{there}{failed}, in {took}")
        return code

    # --- As they come ----------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if isinstance(event, BackupCompleted):
            self._on_completion(event.backup)
        elif isinstance(event, CreateEnded):
            self._ended.add(event.server_id)
            if event.backup is not None:
                self._on_created(event.server_id, event.backup, existing=event.existing)
                return
            if event.error is None or not is_certain(event.error):
                self._kept.add(event.server_id)
                self._doubtful[event.server_id] = None
            if self.outcomes is not None and event.error is not None:
                self._untold[event.server_id] = event.error

    def _on_created(self, server_id: int, backup: Backup, *, existing: bool) -> None:
        self._kept.add(server_id)
        failure = _failure_of(backup)
        if self.outcomes is not None:
            self._untold[server_id] = failure or backup
        if failure is not None:
            return
        self._existing += existing
        self._started += not existing
        if not backup.is_completed:
            self._running[backup.ref] = None
        if self.outcomes is None and not self._waits:
            self._show(backup)

    def _on_completion(self, backup: Backup) -> None:
        """Note at once that a backup runs no more; its outcome may come later, or not at all."""
        self.has_ended(backup.ref)
        if backup.server.id in self._untold:
            self._untold[backup.server.id] = backup

    def _on_completed(self, backup: Backup) -> None:
        self.has_ended(backup.ref)
        self._completed += 1
        if self.outcomes is None:
            self._show(backup)

    def _on_failure(self, key: int | BackupRef, error: Exception) -> None:
        if isinstance(error, WaitError) and not isinstance(error, WaitTimeoutError):
            self.has_ended(error.ref)
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

    # --- At the end ------------------------------------------------------------------------------

    def _write_not_made(self, *, cut_short: bool) -> OSError | None:
        """Write the servers that certainly got no backup; the error if that fails.

        A server whose create was begun and has not ended is among them, as nothing was sent for it,
        unless the client could not be closed in order.
        """
        if self._not_made is None:
            return None
        kept = self._kept | (self._begun - self._ended if cut_short else set())
        left = [server_id for server_id in self._servers or () if server_id not in kept]
        try:
            self._not_made.write(left)
        except OSError as error:
            if left:
                self._screen.note(f"{counted(len(left), 'server')} certainly got no backup:", "red")
                self._to_paste("create", "--servers-from", list(map(str, left)))
            return error
        return None

    def _write_rest(self) -> None:
        """Write an outcome of each item that has none, after an interruption."""
        if self.outcomes is None:
            return
        with suppress(OSError):
            for server_id, known in self._untold.items():
                more = self._more_of(server_id) if self._more_of else {}
                if isinstance(known, Exception):
                    self.outcomes.write(server_id, None, known, **more)
                else:
                    runs = self._more_of or (self._waits and not known.is_completed)
                    failed = INTERRUPTED if runs else None
                    self.outcomes.write_failed_as(server_id, known, failed, **more)
            for ref, seen in self._waited.items():
                self.outcomes.write_failed_as(ref, seen, INTERRUPTED)
            for server_id in self._servers or self._begun:
                if server_id not in self._ended:
                    more = self._more_of(server_id) if self._more_of else {}
                    begun = any(more.values())
                    if begun or self._servers is not None:
                        failed = INTERRUPTED if begun else NOT_BEGUN
                        self.outcomes.write_failed_as(server_id, None, failed, **more)

    def _say_how_to_go_on(self, error: BaseException | None) -> None:
        """Name the backups that may still be running, and the servers that may have got one."""
        if self._makes and error is not None:
            how = end_of(error)
            of = "" if self._servers is None else f" of {len(self._servers):,}"
            if self._started or how == "interrupted":
                self._screen.note(f"{how}: {self._started:,}{of} backups were started")
        if self._doubtful and self._again:
            self._screen.note(
                f"{len(self._doubtful):,} may have got a backup; a minute later, this looks first, "
                "and makes none where one is there:"
            )
            if len(self._doubtful) <= pasting.AT_MOST:
                self._to_paste(self._again, "--servers-from", list(map(str, self._doubtful)))
            else:
                again = f"vpsbackups {self._again}{self.given}"
                self._screen.note(f"{again}  # and the same servers as before", exact=True)
        refs = [written(ref) for ref in self._running]
        if not refs or (error is None and not self._waits):
            return
        self._screen.note(f"{len(refs):,} may still be running; to wait for them:")
        if len(refs) <= pasting.AT_MOST:
            self._to_paste("wait", "--from", refs)
        else:
            running = f"vpsbackups list --type manual --status in_progress{self.given}"
            self._screen.note(f"{running} | vpsbackups wait{self.given} --from -", exact=True)

    def _to_paste(self, command: str, option: str, words: Sequence[str]) -> None:
        to_paste(self._screen, f"{command}{self.given}", option, words)


def _failure_of(backup: Backup | None) -> BackupFailedError | None:
    """The error for a backup that has failed, though no wait said so."""
    if backup is None or not backup.is_failed:
        return None
    return BackupFailedError(backup.ref, backup.status, backup=backup)
