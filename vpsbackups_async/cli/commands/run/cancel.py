"""Cancel what still waits; backups that were started go on, and rotations delete no more.

Usage: vpsbackups run cancel [OPTIONS] NAME

  vpsbackups run cancel nightly
"""

from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Account, Database, Fleets
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.session import has_token

__all__ = ["run"]


def run(
    name: Annotated[str, Parameter(metavar="NAME", help="of the run")],
    *,
    account: Account = None,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    asks = has_token(common)
    with Fleets(common, database, needs_token=asks, account=account) as fleets:
        count = fleets.do(fleets.fleet.cancel(name))
        fleets.screen.summary(f"{count:,} servers of run {name} were cancelled")
    return Exit.FINE
