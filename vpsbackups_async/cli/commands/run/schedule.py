"""Have workers submit a run by the clock of cron; without CRON, list these.

Times that were missed are caught up with one run; servers that another run
still works on are passed over.

Usage: vpsbackups run schedule [OPTIONS] [CRON]

  vpsbackups run schedule "0 3 * * *" --all --rotate daily=4,weekly=4
"""

from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.fleets import Account, Database, Fleets
from vpsbackups_async.cli.options import A_TIME, DEFAULTS, Common, Flag, duration_of
from vpsbackups_async.cli.policy import SERVERS, Chosen, policy_of
from vpsbackups_async.cli.session import has_token
from vpsbackups_async.cli.text import safe

__all__ = ["run"]


def run(
    cron: Annotated[str | None, Parameter(metavar="CRON", help="minute hour day ...")] = None,
    *,
    name: Annotated[str, Parameter(metavar="NAME", help="nightly if not given")] = "nightly",
    servers: Chosen = SERVERS,
    description: Annotated[str | None, Parameter(("--description", "-d"), show=False)] = None,
    ensure: Annotated[str | None, Parameter(metavar="TIME", help=f"as run submit {A_TIME}")] = None,
    rotate: Annotated[str | None, Parameter(metavar="RULES", help="as run submit")] = None,
    job: Annotated[str | None, Parameter(metavar="NAME", help="the label; else NAME")] = None,
    tz: Annotated[str, Parameter(metavar="ZONE", help="of the clock and of --rotate")] = "UTC",
    make_room: Annotated[Flag, Parameter(show=False)] = False,
    ping: Annotated[
        str | None, Parameter(metavar="URL", help="told of each start and end; kept there")
    ] = None,
    delete: Annotated[Flag, Parameter(help="the schedule of this name")] = False,
    account: Annotated[Account, Parameter(show=False)] = None,
    database: Database = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    if cron is None:
        asks = delete and has_token(common)
        with Fleets(common, database, needs_token=asks, account=account) as fleets:
            return fleets.do(_delete(fleets, name) if delete else _list(fleets))
    if delete:
        raise UsageError("--delete takes no CRON")
    ids = servers.ids()
    policy = None if rotate is None else policy_of(rotate, tz=tz, job=job or name)
    within = None if ensure is None else duration_of("--ensure", ensure)
    asks = has_token(common)
    with Fleets(common, database, needs_token=asks, makes=True, account=account) as fleets:
        work = fleets.fleet.schedule(
            name,
            cron,
            ids,
            tz=tz,
            description=description,
            job=job if policy is None else None,
            ensure=within,
            rotate=policy,
            make_room=make_room,
            ping=ping,
        )
        try:
            fleets.do(work)
        except ValueError as error:
            raise UsageError(str(error)) from None
        fleets.screen.summary(f"{name} is due at {cron} ({tz}); a worker must run then")
    return Exit.FINE


async def _delete(fleets: Fleets, name: str) -> Exit:
    await fleets.fleet.unschedule(name)
    fleets.screen.summary(f"schedule {name} is deleted; its runs stay")
    return Exit.FINE


async def _list(fleets: Fleets) -> Exit:
    for one in await fleets.fleet.schedules():
        which = "all servers" if one.servers is None else f"{len(one.servers):,} servers"
        fleets.screen.result(f"{safe(one.name):<20} {one.cron:<15} {one.tz:<15} {which}")
    return Exit.FINE
