"""`create --durable`: a run that is submitted, worked on and forgotten by one command."""

import hashlib
import json
from datetime import timedelta

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Fleets, outcome_line
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.options import Common
from vpsbackups_async.models import AllServers, BackupRef

__all__ = ["create"]


def create(
    common: Common,
    servers: list[int] | AllServers,
    description: str | None,
    within: timedelta | None,
) -> int:
    """The exit code of the command, which goes on where the same command was killed before.

    Its run is forgotten once its outcomes are written, so that the same command begins anew then.
    """
    name = _name_of(servers, description, within)
    with Fleets(common, None, needs_token=True, makes=True) as fleets:
        return fleets.do(_create(fleets, name, servers, description, within))


async def _create(
    fleets: Fleets,
    name: str,
    servers: list[int] | AllServers,
    description: str | None,
    within: timedelta | None,
) -> Exit:
    fleet, screen = fleets.fleet, fleets.screen
    await fleet.submit(name, servers, description=description, ensure=within)
    await fleet.work(until_done=name)
    progress = await fleet.progress(name)
    if not progress.is_over:
        left = progress.total - progress.ended
        screen.note(f"interrupted: {left:,} servers are left; the same command goes on with them")
        return Exit.INTERRUPTED
    async for outcome in fleet.results(name):
        if outcome.ok and outcome.backup_id is not None:
            screen.result(written(BackupRef(outcome.backup_id, outcome.server_id)))
        else:
            screen.note(outcome_line(outcome), "red")
    await fleet.forget(name)
    failed = progress.total - progress.completed
    screen.summary(f"{progress.completed:,} completed{f', {failed:,} failed' if failed else ''}")
    return Exit.SOME_FAILED if failed else Exit.FINE


def _name_of(
    servers: list[int] | AllServers, description: str | None, within: timedelta | None
) -> str:
    """The same name for the same command."""
    seconds = None if within is None else within.total_seconds()
    which = "all" if isinstance(servers, AllServers) else sorted(servers)
    text = json.dumps([which, description, seconds])
    return f"create-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
