"""Write how each server of a run ended, in the order of their ids.

Usage: vpsbackups run results [OPTIONS] NAME

  vpsbackups run results nightly --ndjson
"""

import json
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.fleets import Database, Fleets
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.cli.text import safe
from vpsbackups_async.durable import RunOutcome

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
                    fleets.screen.result(_line(outcome))

        fleets.do(write())
    return Exit.FINE


def _line(outcome: RunOutcome) -> str:
    """The server, its state and its backup, one word each, then what is to be said."""
    said = [outcome.detail or ""]
    if outcome.candidates:
        said.append(f"may be {', '.join(map(str, outcome.candidates))}")
    if outcome.twins:
        said.append(f"made twice: {', '.join(map(str, outcome.twins))}")
    if outcome.deleted:
        said.append(f"deleted {', '.join(map(str, outcome.deleted))}")
    text = safe("; ".join(filter(None, said)))
    backup = "-" if outcome.backup_id is None else str(outcome.backup_id)
    return f"{outcome.server_id:<10} {outcome.state:<10} {backup:<10} {text}".rstrip()
