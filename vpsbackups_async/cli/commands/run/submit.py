"""Add servers to a run; nothing starts before a worker runs.

Repeating it adds what is missing. Workers create a backup of each, unless
--ensure or --rotate say otherwise.

Usage: vpsbackups run submit [OPTIONS] NAME

  vpsbackups run submit night-1 --all --rotate daily=4,weekly=4 --job nightly
"""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.fleets import Account, Database, Fleets
from vpsbackups_async.cli.options import A_TIME, DEFAULTS, Common, Flag, duration_of
from vpsbackups_async.cli.pasting import as_argument
from vpsbackups_async.cli.policy import SERVERS, Chosen, policy_of
from vpsbackups_async.cli.session import has_token
from vpsbackups_async.cli.text import counted, printable
from vpsbackups_async.errors import RunError
from vpsbackups_async.models import AllServers
from vpsbackups_async.retention import Retention

__all__ = ["run"]


def run(
    name: Annotated[str, Parameter(metavar="NAME", help="of the run")],
    *,
    servers: Chosen = SERVERS,
    description: Annotated[
        str | None, Parameter(("--description", "-d"), metavar="TEXT", help="of the new backups")
    ] = None,
    ensure: Annotated[
        str | None,
        Parameter(metavar="TIME", help=f"only where none so described is newer {A_TIME}"),
    ] = None,
    rotate: Annotated[
        str | None, Parameter(metavar="RULES", help="then delete all but these: daily=4,weekly=4")
    ] = None,
    job: Annotated[str | None, Parameter(metavar="NAME", help="the label, [job:NAME]")] = None,
    tz: Annotated[
        str | None, Parameter(metavar="ZONE", help="of the periods of --rotate; UTC if not given")
    ] = None,
    make_room: Annotated[Flag, Parameter(show=False)] = False,
    account: Account = None,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    ids = servers.ids()
    policy, within = None, None
    if rotate is not None:
        policy, job = _policy(rotate, "UTC" if tz is None else tz, job), None
    elif tz is not None:
        raise UsageError("--tz is of no use without --rotate")
    if ensure is not None:
        within = duration_of("--ensure", ensure)
    asks = isinstance(ids, AllServers) or has_token(common)
    with Fleets(common, database, needs_token=asks, makes=True, account=account) as fleets:
        try:
            work = fleets.fleet.submit(
                name,
                ids,
                description=description,
                job=job,
                ensure=within,
                rotate=policy,
                make_room=make_room,
            )
            added = fleets.do(_said_if_interrupted(fleets, name, fleets.named(database), work))
        except ValueError as error:
            raise UsageError(str(error)) from None
        fleets.screen.summary(f"{added:,} servers added to run {name}")
    return Exit.FINE


async def _said_if_interrupted(
    fleets: Fleets, name: str, named: str, work: Coroutine[Any, Any, int]
) -> int:
    """What `submit` returns; an interruption of it says how many servers the run has by then.

    `named` is the option that names the database.
    """
    try:
        return await work
    except asyncio.CancelledError:
        try:
            total = (await fleets.fleet.progress(name)).total
        except RunError:
            fleets.screen.note("interrupted: nothing was added")
        else:
            fleets.screen.note(
                f"interrupted: run {printable(name)} has {counted(total, 'server')}, which a "
                "worker takes. The same command adds the rest; this cancels them: "
                f"vpsbackups run cancel{named} {as_argument(name)}"
            )
        raise


def _policy(rules: str, tz: str, job: str | None) -> Retention:
    policy = policy_of(rules, tz=tz, job=job)
    if job is None:
        raise UsageError("--job NAME is needed: it labels what is made, and only that is deleted")
    return policy
