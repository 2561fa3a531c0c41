"""List the runs of the database in the order of their submission.

Usage: vpsbackups run list [OPTIONS]

  vpsbackups run list
"""

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Database, Fleets, counts
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.text import moment, printable

__all__ = ["run"]


def run(*, database: Database = None, common: Common = DEFAULTS) -> int:
    """The exit code of the command, once it has ended."""
    with Fleets(common, database) as fleets:

        async def write() -> None:
            for info in await fleets.fleet.runs():
                now = await fleets.fleet.progress(info.run)
                how = "over" if now.is_over else "cancelled" if info.cancelled else "under way"
                name, since = printable(info.run), moment(info.submitted_at)
                fleets.screen.result(f"{name:<20} {since}  {how:<9}  {counts(now)}")

        fleets.do(write())
    return Exit.FINE
