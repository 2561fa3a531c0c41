"""Let the servers of a run that failed be worked on once more.

Where it is unknown whether there is a backup (--only unknown), it is looked
for; after a timeout or a 504 no other one is made.

Usage: vpsbackups run retry [OPTIONS] NAME

  vpsbackups run retry nightly --only unknown
"""

from typing import Annotated, Literal

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Account, Database, Fleets
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.session import has_token

__all__ = ["run"]


def run(
    name: Annotated[str, Parameter(metavar="NAME", help="of the run")],
    *,
    only: Annotated[
        Literal["failed", "unknown", "cancelled"],
        Parameter(metavar="STATE", help="failed, unknown or cancelled; failed if not given"),
    ] = "failed",
    account: Account = None,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    asks = has_token(common)
    with Fleets(common, database, needs_token=asks, account=account) as fleets:
        count = fleets.do(fleets.fleet.retry(name, only))
        fleets.screen.summary(f"{count:,} servers of run {name} wait again")
    return Exit.FINE
