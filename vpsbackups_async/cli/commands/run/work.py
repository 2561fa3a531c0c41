"""Work on all runs until Ctrl-C, which leaves all in order.

Start as many as you like, on other machines too if the database is
PostgreSQL. One started later goes on where a killed one was.

Usage: vpsbackups run work [OPTIONS]

  vpsbackups run work --rate 20
"""

import os
import sys
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError, explain, hint_of
from vpsbackups_async.cli.fleets import Database, Fleets
from vpsbackups_async.cli.numbers import NUMBER, WHOLE
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.durable import Limits
from vpsbackups_async.errors import DatabaseError, WorkerStoppedError

__all__ = ["run"]


def run(
    *,
    until_done: Annotated[Flag, Parameter(help="end once nothing is left to do")] = False,
    concurrency: Annotated[
        int,
        WHOLE,
        Parameter(metavar="N", help="servers at a time over all workers; 5000 if not given"),
    ] = 5000,
    rate: Annotated[
        float | None, NUMBER, Parameter(metavar="N", help="creates a second over all workers; kept")
    ] = None,
    account: Annotated[
        str | None, Parameter(metavar="NAME", help="whose database, if the API does not tell")
    ] = None,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    try:
        limits = Limits(rate=rate, concurrency=concurrency)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    with Fleets(common, database, limits, needs_token=True, account=account) as fleets:
        screen = fleets.screen

        def started(slot: int) -> None:
            screen.summary(f"worker {slot} of {fleets.fleet.name}: Ctrl-C ends it in order")

        try:
            fleets.do(fleets.fleet.work(until_done=until_done, on_start=started))
        except (DatabaseError, WorkerStoppedError) as error:
            screen.error(explain(error), hint_of(error))
            sys.stdout.flush()
            # Threads of the engine may wait for a database that is away, and would hold it up.
            os._exit(Exit.SOME_FAILED)
    return Exit.FINE
