"""Write how each server of a run ended, in the order of their ids.

Exit 0 whatever that was: run status is what tells.

Usage: vpsbackups run results [OPTIONS] NAME

  vpsbackups run results nightly --ndjson
"""

import json
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Database, Fleets, outcome_line
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag

__all__ = ["run"]


def run(
    name: Annotated[str, Parameter(metavar="NAME", help="of the run")],
    *,
    ndjson: Annotated[Flag, Parameter(help="a JSON object for each, a line each")] = False,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    with Fleets(common, database) as fleets:

        async def write() -> None:
            async for outcome in fleets.fleet.results(name):
                if ndjson:
                    fleets.screen.raw(json.dumps(outcome.to_dict()).encode() + b"\n")
                else:
                    fleets.screen.result(outcome_line(outcome))

        fleets.do(write())
    return Exit.FINE
