"""Delete what is kept of runs that are over; their backups stay.

Usage: vpsbackups run forget [OPTIONS] [NAME]

  vpsbackups run forget --older-than 30d
"""

from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.fleets import Account, Database, Fleets
from vpsbackups_async.cli.options import A_TIME, DEFAULTS, Common, duration_of
from vpsbackups_async.cli.session import has_token

__all__ = ["run"]


def run(
    name: Annotated[str | None, Parameter(metavar="NAME", help="of the run")] = None,
    *,
    older_than: Annotated[
        str | None, Parameter(metavar="TIME", help=f"all that were submitted so long ago {A_TIME}")
    ] = None,
    account: Account = None,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    if (name is None) == (older_than is None):
        raise UsageError("give the NAME of a run, or --older-than TIME")
    age = None if older_than is None else duration_of("--older-than", older_than)
    asks = has_token(common)
    with Fleets(common, database, needs_token=asks, account=account) as fleets:
        forgotten: list[str] = []
        if age is not None:
            forgotten = fleets.do(fleets.fleet.forget_older_than(age))
        elif name is not None:
            fleets.do(fleets.fleet.forget(name))
            forgotten.append(name)
        for one in forgotten:
            fleets.screen.result(one)
        fleets.screen.summary(f"{len(forgotten):,} runs forgotten")
    return Exit.FINE
