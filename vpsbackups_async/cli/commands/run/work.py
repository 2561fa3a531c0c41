"""Work on all runs until Ctrl-C, which leaves all in order.

Start as many as you like, on other machines too if the database is
PostgreSQL. One started later goes on where a killed one was. With --until-done
exit 1 if servers of the runs that it saw to their end failed or a schedule's
run could not be submitted, and 130 or 143 if a signal came before all ended.

Usage: vpsbackups run work [OPTIONS]

  vpsbackups run work --rate 20
"""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError, explain, hint_of
from vpsbackups_async.cli.fleets import NOT_WHOLE, Account, Database, Fleets
from vpsbackups_async.cli.numbers import NUMBER, WHOLE
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.cli.pasting import as_argument
from vpsbackups_async.cli.signals import Stopped
from vpsbackups_async.cli.text import counted, safe
from vpsbackups_async.durable import Limits, RunProgress
from vpsbackups_async.errors import DatabaseError, RunError, WorkerStoppedError

__all__ = ["run"]

_MOST_TOLD: Final = 5
"""Runs of which the command that shows their results is told."""


def run(
    *,
    until_done: Annotated[Flag, Parameter(help="end once nothing is left to do")] = False,
    concurrency: Annotated[
        int | None,
        WHOLE,
        Parameter(metavar="N", help="servers at a time over all workers, at first 5000; kept"),
    ] = None,
    rate: Annotated[
        float | None, NUMBER, Parameter(metavar="N", help="creates a second over all workers; kept")
    ] = None,
    account: Account = None,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    try:
        limits = Limits(rate=rate, concurrency=concurrency)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    makes = not until_done  # which would end at once with a new database, of a mistyped name say
    with Fleets(common, database, limits, needs_token=True, makes=makes, account=account) as fleets:
        screen = fleets.screen

        def started(slot: int) -> None:
            screen.summary(f"worker {slot} of {fleets.fleet.name}: Ctrl-C ends it in order")

        try:
            if until_done:
                return fleets.do(_until_done(fleets, started, fleets.named(database)))
            return fleets.do(_until_interrupted(fleets, started))
        except (DatabaseError, WorkerStoppedError) as error:
            screen.error(explain(error), hint_of(error))
            sys.stdout.flush()
            # Threads of the engine may wait for a database that is away, and would hold it up.
            os._exit(Exit.SOME_FAILED)


async def _until_interrupted(fleets: Fleets, started: Callable[[int], object]) -> int:
    number = await fleets.fleet.work(on_start=started)
    return Exit.FINE if number is None or not fleets.fleet.unsettled else Stopped(number).code


async def _until_done(fleets: Fleets, started: Callable[[int], object], named: str) -> int:
    """Say how the servers ended of the runs that were not over before; the exit code.

    `named` is the option that names the database, if it was given.
    """
    before = {one.run async for one in _each(fleets) if one.is_over and one.wholly_submitted}
    number = await fleets.fleet.work(until_done=True, on_start=started)
    counts = dict.fromkeys(("completed", "failed", "unknown", "cancelled", "left"), 0)
    partly: list[str] = []
    wrong: list[str] = []
    async for one in _each(fleets):
        if one.run not in before:
            for state in ("completed", "failed", "unknown", "cancelled"):
                counts[state] += getattr(one, state)
            counts["left"] += one.total - one.ended
            if one.failed or one.unknown:
                wrong.append(one.run)
            if not one.wholly_submitted:
                partly.append(one.run)
    failed = counts["failed"] + counts["unknown"]
    has_left = bool(counts["left"]) or fleets.fleet.unsettled > 0
    shown = [f"{counts.pop('completed'):,} completed"]
    shown += [f"{count:,} {state}" for state, count in counts.items() if count]
    _tell(fleets, ", ".join(shown), wrong, named)
    for name in partly:
        fleets.screen.note(f"{safe(name)} is {NOT_WHOLE}", "yellow")
    unsubmitted = fleets.fleet.unsubmitted
    for name in unsubmitted:
        fleets.screen.note(f"{safe(name)} could not be submitted", "red")
    if number is not None and has_left:
        return Stopped(number).code
    return Exit.SOME_FAILED if failed or partly or unsubmitted else Exit.FINE


def _tell(fleets: Fleets, shown: str, wrong: list[str], named: str) -> None:
    """Print how all ended, and for the runs that failed in part the commands that show how."""
    summary = fleets.screen.summary
    told = [f"vpsbackups run results{named} {as_argument(run)}" for run in wrong[:_MOST_TOLD]]
    if len(wrong) == 1:
        summary(f"{shown}: {told[0]}", exact=True)
    else:
        summary("\n".join([shown, *told]), exact=True)
    more = len(wrong) - len(told)
    if more:
        summary(f"and of {counted(more, 'other run')}: vpsbackups run list{named}", exact=True)
    if wrong and named and fleets.has_password:
        summary("(without the password: give the same --database, or PGPASSWORD or ~/.pgpass)")


async def _each(fleets: Fleets) -> AsyncIterator[RunProgress]:
    """How far each run is."""
    for info in await fleets.fleet.runs():
        with suppress(RunError):  # it was forgotten meanwhile
            yield await fleets.fleet.progress(info.run)
