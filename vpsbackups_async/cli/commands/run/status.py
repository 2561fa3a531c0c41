"""Say how far a run is.

Exit 1 once it is over and some failed, none was done, or its submit was cut off.

Usage: vpsbackups run status [OPTIONS] NAME

  vpsbackups run status nightly --watch
"""

import asyncio
import json
from typing import Annotated

from attrs import asdict
from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Database, Fleets, counts
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.text import safe
from vpsbackups_async.cli.watching import EVERY, Watched
from vpsbackups_async.client import ClientStats
from vpsbackups_async.durable import RunProgress, SilentWorker

__all__ = ["run"]


def run(
    name: Annotated[str, Parameter(metavar="NAME", help="of the run")],
    *,
    watch: Annotated[Flag, Parameter(help="show it live until it is over")] = False,
    as_json: Annotated[Flag, Parameter("--json", help="one JSON object")] = False,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    with Fleets(common, database) as fleets:
        progress = fleets.do(_watched(fleets, name) if watch else fleets.fleet.progress(name))
        silent = [] if progress.is_over else fleets.do(fleets.fleet.silent_workers())
        if as_json:
            said = {
                **asdict(progress),
                "total": progress.total,
                "is_over": progress.is_over,
                "silent_workers": [asdict(worker) for worker in silent],
            }
            fleets.screen.raw(json.dumps(said).encode() + b"\n")
        else:
            fleets.screen.result(_line(progress))
        for worker in silent:
            fleets.screen.note(_told(worker), "yellow")
    has_nothing = progress.cancelled and not progress.completed
    failed = progress.failed or progress.unknown or has_nothing or not progress.wholly_submitted
    return Exit.SOME_FAILED if progress.is_over and failed else Exit.FINE


async def _watched(fleets: Fleets, name: str) -> RunProgress:
    """The progress of the run once it is over, shown until then."""
    told: set[int] = set()
    async with Display(fleets.screen, name, ClientStats, after=0.0) as display:
        now = await fleets.fleet.progress(name)
        watched = Watched(now)
        while not now.is_over:
            display.update(watched.shown(now))
            for worker in await fleets.fleet.silent_workers():
                if worker.pid not in told:
                    told.add(worker.pid)
                    fleets.screen.note(_told(worker), "yellow")
            await asyncio.sleep(EVERY)
            now = await fleets.fleet.progress(name)
    return now


def _told(worker: SilentWorker) -> str:
    place = f"process {worker.pid} on {safe(worker.host)}"
    return (
        f"worker {worker.slot} has not answered for {worker.seconds:,.0f} s: end {place} if it is "
        "still there; another worker takes over what it has"
    )


def _line(progress: RunProgress) -> str:
    return f"{progress.run}: {counts(progress)}"
