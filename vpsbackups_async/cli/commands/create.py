"""Start a backup of each server; with --wait, wait for the end.

Piped, it writes ID:SERVER of each. Ctrl-C finishes and names what is under way.

Usage: vpsbackups create [OPTIONS] SERVER...

  vpsbackups create 12345 12346 --description Nightly --wait
"""

from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.ids import server_ids
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag, Timeout, timeout_seconds
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.tracker import Tracker
from vpsbackups_async.models import ALL_SERVERS

__all__ = ["run"]


def run(
    *servers: Annotated[str, Parameter(metavar="SERVER", help="ids of servers")],
    servers_from: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            allow_leading_hyphen=True,
            help="the servers named there, too; - is stdin",
        ),
    ] = None,
    all_servers: Annotated[Flag, Parameter("--all", help="every server of the account")] = False,
    description: Annotated[
        str | None, Parameter(("--description", "-d"), metavar="TEXT", help="what it is made for")
    ] = None,
    wait: Annotated[Flag, Parameter(("--wait", "-w"), help="until it is completed")] = False,
    concurrency: Annotated[
        int, Parameter(metavar="N", help="creates at a time; 64 if not given")
    ] = 64,
    max_running: Annotated[
        int | None, Parameter(metavar="N", help="backups at a time with --wait; any if not given")
    ] = None,
    timeout: Timeout = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    ids = server_ids(servers, servers_from)
    if all_servers and ids:
        raise UsageError("--all is every server: name none beside it")
    if not (all_servers or ids):
        raise UsageError("no server is named: give ids, --servers-from FILE, or --all")
    if concurrency < 1:
        raise UsageError("--concurrency is one or more")
    if max_running is not None and max_running < 1:
        raise UsageError("--max-running is one or more")
    for option, given in (("--max-running", max_running), ("--timeout", timeout)):
        if given is not None and not wait:
            raise UsageError(f"{option} is of no use without --wait")
    seconds = timeout_seconds(timeout)
    with Tracker(common, waits=wait, planned=len(ids)) as tracker:
        session = tracker.session
        fleet = session.client.fleet(ALL_SERVERS if all_servers else ids, concurrency=concurrency)

        async def work() -> Exit:
            what = "Backing up" if wait else "Starting"
            async with Display(session.screen, what, session.stats) as display:
                await tracker.follow(
                    fleet.create(
                        description=description,
                        wait=wait,
                        timeout=seconds,
                        max_running=max_running,
                        on_progress=display.update,
                    )
                )
            return tracker.end()

        return session.do(work())
