"""`create --durable`: a run that is submitted, worked on and forgotten by one command."""

import asyncio
import hashlib
import json
import signal
from datetime import UTC, datetime, timedelta
from typing import Final

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Fleets, counts, outcome_line
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.signals import Stopped
from vpsbackups_async.cli.text import moment
from vpsbackups_async.cli.watching import watching
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

    Its run is forgotten before its outcomes are written, so that the same command begins anew then,
    also where they cannot be written.
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
    fleet, screen = fleets.fleet, fleets.screen
    await _make_way(fleets, name)
    await fleet.submit(name, servers, description=description, ensure=within)
    await _finish(fleets, name)
    progress = await fleet.progress(name)
    outcomes = [outcome async for outcome in fleet.results(name)]
    await fleet.forget(name)
    for outcome in outcomes:
        if outcome.ok and outcome.backup_id is not None:
            screen.result(written(BackupRef(outcome.backup_id, outcome.server_id)))
        else:
            screen.note(outcome_line(outcome), "red")
    failed = progress.total - progress.completed
    screen.summary(f"{progress.completed:,} completed{f', {failed:,} failed' if failed else ''}")
    return Exit.SOME_FAILED if failed else Exit.FINE


async def _make_way(fleets: Fleets, name: str) -> None:
    """See that the run of this name is this command's own, once it is submitted.

    A run of the same command before that is over is told of and forgotten, for its backups are not
    those that are asked for now. One that is not over is gone on with, which is said; if it is old,
    or was cancelled, only what it has started is ended. Raises `_InterruptedError`.
    """
    fleet, screen = fleets.fleet, fleets.screen
    before = next((one for one in await fleet.runs() if one.run == name), None)
    if before is None:
        return
    since = f"the run of {moment(before.submitted_at)} UTC"
    if not (await fleet.progress(name)).is_over:
        if not before.cancelled and datetime.now(UTC) - before.submitted_at < _GOES_ON_WITHIN:
            screen.note(f"going on with {since}: no new backups are made of servers it has done")
            return
        await fleet.cancel(name)
        await _finish(fleets, name)
    ended = counts(await fleet.progress(name))
    await fleet.forget(name)
    screen.note(f"{since} had ended untold: {ended}. A new run begins")


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
