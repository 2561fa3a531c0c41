"""Backups that are made: which were started, which have ended, and how to go on."""

import asyncio
import textwrap
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Annotated, Final, Self, TypeVar

from attrs import evolve
from cyclopts import Parameter

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async.backoff import Attempt, Backoff
from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import clock, seconds_of
from vpsbackups_async.client import DEFAULT_WAIT_BACKOFF, BackupStream
from vpsbackups_async.errors import WaitError, WaitTimeoutError
from vpsbackups_async.fleet import Fleet
from vpsbackups_async.models import Backup, BackupRef, BackupType, Outcome

__all__ = ["Timeout", "Tracker", "seconds_in"]

K = TypeVar("K")

_ON_ONE_LINE: Final = 5
_AT_MOST: Final = 1000
"""More refs than that are not printed to be copied."""

Timeout = Annotated[
    str | None, Parameter(metavar="TIME", help="of each wait, 90s, 30m or 2h; 1h if not given")
]


def seconds_in(timeout: str | None) -> float:
    """The seconds that `--timeout` gives, 3600 without it; raises `UsageError`."""
    seconds = 3600.0 if timeout is None else seconds_of(timeout)
    if seconds is None:
        raise UsageError(f"--timeout {timeout!r} is no time: give 90s, 30m or 2h")
    return seconds


def _at_once(attempt: Attempt) -> float:
    """The first look now, for it may have ended long ago; the others as ever."""
    if attempt.number == 1:
        return 0.0
    return DEFAULT_WAIT_BACKOFF(evolve(attempt, number=attempt.number - 1))


class Tracker:
    """Backups that are made: which were started, which have ended, and how to go on.

    It stands between a `Fleet` and its client, to know of a backup as soon as there is one.
    """

    def __init__(self, session: Session, *, waits: bool) -> None:
        self._session = session
        self._screen = session.screen
        self._waits = waits
        self._failures = Failures(session.screen)
        self._table = Table(session.screen) if session.screen.out.is_terminal else None
        self._open: dict[int, BackupRef] = {}
        self._planned = self._started = self._completed = 0
        self._began = 0.0
        self._unread: BrokenPipeError | None = None
        session.on_late = self._begin

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # First the client is closed: it finishes the creates that are under way, and tells of them.
        try:
            self._session.__exit__(kind, error, traceback)
        finally:
            self._say_how_to_go_on(interrupted=error is not None)

    # --- What a fleet needs of a client ---------------------------------------------------------

    def list(
        self, *, server_id: int | None = None, backup_type: str | BackupType | None = None
    ) -> BackupStream:
        """The client's own."""
        return self._session.client.list(server_id=server_id, backup_type=backup_type)

    async def create(self, server_id: int, *, description: str | None = None) -> Backup:
        """A started backup, noted."""
        backup = await self._session.client.create(server_id, description=description)
        self._begin(backup)
        return backup

    async def wait(
        self,
        backup: Backup | BackupRef,
        *,
        backoff: Backoff | None = None,
        timeout: float | None = 3600.0,
    ) -> Backup:
        """The completed backup, noted."""
        try:
            done = await self._session.client.wait(backup, backoff=backoff, timeout=timeout)
        except WaitError as error:
            if not isinstance(error, WaitTimeoutError):
                self._open.pop(error.ref.id, None)
            raise
        self._open.pop(done.id, None)
        self._completed += 1
        self._show(done)
        return done

    # --- The two jobs ---------------------------------------------------------------------------

    async def create_all(
        self, ids: Sequence[int], description: str | None, concurrency: int, timeout: float
    ) -> Exit:
        """Back these servers up; the exit code."""
        self._planned = len(ids)
        self._began = asyncio.get_running_loop().time()
        what = "Backing up" if self._waits else "Starting"
        async with Display(self._screen, what, self._session.stats) as display:
            outcomes = Fleet(self, ids, concurrency=concurrency).create(
                description=description,
                wait=self._waits,
                timeout=timeout,
                on_progress=display.update,
            )
            await self._settle("server", outcomes)
        return self._end()

    async def wait_for_all(self, refs: Sequence[BackupRef], timeout: float) -> Exit:
        """Wait for these backups; the exit code."""
        self._open = {ref.id: ref for ref in refs}
        self._began = asyncio.get_running_loop().time()

        async def work(ref: BackupRef) -> Backup:
            return await self.wait(ref, backoff=_at_once, timeout=timeout)

        async with Display(self._screen, "Waiting", self._session.stats) as display:
            await self._settle(
                "backup", fan_out(work, refs, concurrency=None, on_progress=display.update)
            )
        return self._end()

    async def _settle(self, what: str, outcomes: AsyncGenerator[Outcome[K, Backup]]) -> None:
        async with aclosing(outcomes):
            async for outcome in outcomes:
                if self._unread is not None:
                    raise self._unread
                if outcome.error is not None:
                    key = outcome.key
                    shown = written(key) if isinstance(key, BackupRef) else key
                    self._failures.add(f"{what} {shown}", outcome.error)

    def _begin(self, backup: Backup) -> None:
        self._started += 1
        self._open[backup.id] = backup.ref
        if not self._waits:
            self._show(backup)

    def _show(self, backup: Backup) -> None:
        try:
            if self._table is None:
                self._screen.result(written(backup.ref))
            else:
                self._table.rows([backup])
        except BrokenPipeError as error:
            # It stops the job and not this backup, which is there all the same.
            self._unread = error

    def _end(self) -> Exit:
        code = self._failures.close()
        done = f"{self._completed:,} completed" if self._waits else f"{self._started:,} started"
        failed = self._failures.count
        took = clock(asyncio.get_running_loop().time() - self._began)
        self._screen.summary(f"{done}{f', {failed:,} failed' if failed else ''}, in {took}")
        return code

    def _say_how_to_go_on(self, *, interrupted: bool) -> None:
        """Name the backups that may be running still, in a command that waits for them."""
        if not interrupted and not (self._waits and self._open):
            return
        refs = [written(ref) for ref in self._open.values()]
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
