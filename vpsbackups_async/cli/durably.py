"""`create --durable`: a run that is submitted, worked on and told of by one command."""

import asyncio
import hashlib
import json
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Fleets, counts, outcome_line
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.signals import Stopped
from vpsbackups_async.cli.text import moment
from vpsbackups_async.cli.watching import watching
from vpsbackups_async.durable import RunOutcome
from vpsbackups_async.errors import RunError
from vpsbackups_async.models import AllServers, BackupRef

__all__ = ["create"]

_GOES_ON_WITHIN: Final = timedelta(hours=12)
"""How old a run may be to be gone on with: what cron starts each night makes new backups."""


def create(
    common: Common,
    servers: list[int] | AllServers,
    description: str | None,
    within: timedelta | None,
) -> int:
    """The exit code of the command, which goes on where the same command was killed before.

    Its run is marked as told once its outcomes are written, so that the same command begins anew
    then, and not before. It is kept until that, for another such command may work on it at the same
    time.
    """
    name = _name_of(servers, description, within)
    with Fleets(common, None, needs_token=True, makes=True) as fleets:
        try:
            return fleets.do(_create(fleets, name, servers, description, within))
        except _InterruptedError as error:
            raise Stopped(error.number) from None


async def _create(
    fleets: Fleets,
    name: str,
    servers: list[int] | AllServers,
    description: str | None,
    within: timedelta | None,
) -> Exit:
    try:
        has_ended = await _make_way(fleets, name)
    except RunError:  # the same command has forgotten it at this moment
        has_ended = False
    await _forget_told(fleets)
    if not has_ended:
        await fleets.own()  # before anything is kept that another worker would do
        await fleets.fleet.submit(name, servers, description=description, ensure=within)
        await _finish(fleets, name)
    run = await fleets.store.find(name)
    outcomes = [outcome async for outcome in fleets.fleet.results(name)]
    try:
        ended = _told(fleets, outcomes)
    except OSError:
        fleets.screen.note("the outcomes could not be written: the same command tells them again")
        raise
    await fleets.store.tell(run)
    return ended


def _told(fleets: Fleets, outcomes: list[RunOutcome]) -> Exit:
    """The exit code of a run that ended so, which is written."""
    screen, failed = fleets.screen, 0
    for outcome in outcomes:
        failed += not outcome.ok
        if outcome.ok and outcome.backup_id is not None:
            screen.result(written(BackupRef(outcome.backup_id, outcome.server_id)))
        else:
            screen.note(outcome_line(outcome), "red")
    completed = len(outcomes) - failed
    screen.summary(f"{completed:,} completed{f', {failed:,} failed' if failed else ''}")
    return Exit.SOME_FAILED if failed else Exit.FINE


async def _forget_told(fleets: Fleets) -> None:
    """Forget what commands with other words told long ago."""
    for name in await fleets.store.told(_GOES_ON_WITHIN):
        with suppress(RunError):  # it waits for a retry
            await fleets.fleet.forget(name)


async def _make_way(fleets: Fleets, name: str) -> bool:
    """Whether the run of this name has ended, and only its outcomes are to be told.

    Otherwise it is this command's own once it is submitted. A run of the same command before that
    was told is forgotten. One that was not is told now, if it is over, or gone on with, which is
    said; if it is old, or was cancelled, only what it has started is ended, and it is forgotten, as
    its backups are not those that are asked for now. Raises `_InterruptedError`.
    """
    fleet, screen = fleets.fleet, fleets.screen
    before = next((one for one in await fleet.runs() if one.run == name), None)
    if before is None:
        return False
    since = f"the run of {moment(before.submitted_at)} UTC"
    now = await fleet.progress(name)
    is_over = now.is_over and now.wholly_submitted
    if is_over and await fleets.store.is_told(await fleets.store.find(name)):
        await fleet.forget(name)
        return False
    if not before.cancelled and datetime.now(UTC) - before.submitted_at < _GOES_ON_WITHIN:
        if is_over:
            screen.note(
                f"{since} had ended untold: no new backups are made; the same command makes new "
                "ones from now on"
            )
        else:
            screen.note(f"going on with {since}: no new backups are made of servers it has done")
        return is_over
    if not is_over:
        await fleet.cancel(name)
        await _finish(fleets, name)
    ended = counts(await fleet.progress(name))
    await fleet.forget(name)
    screen.note(f"{since} had ended untold: {ended}. A new run begins")
    return False


async def _finish(fleets: Fleets, name: str) -> None:
    """Work on the run until it is over; raises `_InterruptedError` if a signal comes before."""
    try:
        async with watching(fleets, name, "Backing up"):
            number = await fleets.fleet.work(until_done=name)
    except asyncio.CancelledError:  # SIGHUP
        await _has_left(fleets, name)
        raise
    if await _has_left(fleets, name):
        raise _InterruptedError(number or signal.SIGINT)


async def _has_left(fleets: Fleets, name: str) -> bool:
    """Whether servers of the run have no outcome, which is said."""
    progress = await fleets.fleet.progress(name)
    left = progress.total - progress.ended
    if left:
        fleets.screen.note(
            f"interrupted: {left:,} servers are left; the same command goes on with them"
        )
    return bool(left)


class _InterruptedError(Exception):
    """A signal came before the run was over. A `Stopped` would tear the event loop down."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _name_of(
    servers: list[int] | AllServers, description: str | None, within: timedelta | None
) -> str:
    """The same name for the same command."""
    seconds = None if within is None else within.total_seconds()
    which = "all" if isinstance(servers, AllServers) else sorted(servers)
    text = json.dumps([which, description, seconds])
    return f"create-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
