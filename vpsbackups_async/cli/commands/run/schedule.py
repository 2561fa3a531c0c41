"""Have workers submit a run by the clock of cron; without CRON, list these.

Times that were missed are caught up with one run; servers that another run
still works on are passed over.

Usage: vpsbackups run schedule [OPTIONS] [CRON]

  vpsbackups run schedule "0 3 * * *" --all --rotate daily=4,weekly=4
"""

from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, NothingToDo, UsageError
from vpsbackups_async.cli.fleets import Account, Database, Fleets
from vpsbackups_async.cli.options import A_TIME, DEFAULTS, Common, Flag, duration_of
from vpsbackups_async.cli.policy import SERVERS, Chosen, policy_of
from vpsbackups_async.cli.session import has_token
from vpsbackups_async.cli.text import printable
from vpsbackups_async.durable.engine import check_due

__all__ = ["run"]

_NAME: Final = "nightly"
_NO_CRON: Final = (
    "CRON is missing: '0 3 * * *', for example; run schedule without options lists the schedules"
)


def run(
    cron: Annotated[str | None, Parameter(metavar="CRON", help="minute hour day ...")] = None,
    *,
    name: Annotated[str | None, Parameter(metavar="NAME", help="nightly if not given")] = None,
    servers: Chosen = SERVERS,
    description: Annotated[str | None, Parameter(("--description", "-d"), show=False)] = None,
    ensure: Annotated[str | None, Parameter(metavar="TIME", help=f"as run submit {A_TIME}")] = None,
    rotate: Annotated[str | None, Parameter(metavar="RULES", help="as run submit")] = None,
    job: Annotated[str | None, Parameter(metavar="NAME", help="the label; else NAME")] = None,
    tz: Annotated[
        str | None, Parameter(metavar="ZONE", help="of the clock and of --rotate")
    ] = None,
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
    named, name = name is not None, _NAME if name is None else name
    if cron is None:
        given = (description, ensure, rotate, job, tz, ping)
        if servers != SERVERS or make_room or any(one is not None for one in given):
            raise UsageError("--delete takes --name alone" if delete else _NO_CRON)
        if not delete and named:
            raise UsageError(_NO_CRON)
        asks = delete and has_token(common)
        with Fleets(common, database, needs_token=asks, account=account) as fleets:
            return fleets.do(
                _delete(fleets, _NAME if name is None else name) if delete else _list(fleets)
            )
    if delete:
        raise UsageError("--delete takes no CRON")
    tz = "UTC" if tz is None else tz
    _check(cron, tz)
    try:
        ids = servers.ids()
    except NothingToDo as nothing:  # what makes no schedule must not pass for one that was made
        raise UsageError(str(nothing)) from None
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


def _check(cron: str, tz: str) -> None:
    """Raise `UsageError` for a line of cron that is none, before the other options are read."""
    try:
        check_due(cron, tz)
    except ValueError as error:
        is_word = cron.isalpha()  # `list` or `delete`, say
        way = "; without CRON, run schedule lists, and --delete --name NAME deletes"
        raise UsageError(f"{error}{way if is_word else ''}") from None


async def _delete(fleets: Fleets, name: str) -> Exit:
    await fleets.fleet.unschedule(name)
    fleets.screen.summary(f"schedule {name} is deleted; its runs stay")
    return Exit.FINE


async def _list(fleets: Fleets) -> Exit:
    for one in await fleets.fleet.schedules():
        which = "all servers" if one.servers is None else f"{len(one.servers):,} servers"
        fleets.screen.result(f"{printable(one.name):<20} {one.cron:<15} {one.tz:<15} {which}")
    return Exit.FINE
