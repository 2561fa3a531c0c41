"""Write an HTML page: what is wrong, what to do, a calendar.

Usage: vpsbackups report --html FILE [OPTIONS] [SERVER...]

  vpsbackups report --html backups.html --days 90 --kept 3 --reach 14d
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async._files import write_whole
from vpsbackups_async.audit import html_report
from vpsbackups_async.cli.auditing import Keeps, Reaches, Servers, ServersFrom, Slack, Wanted
from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.numbers import WHOLE
from vpsbackups_async.cli.options import A_TIME, DEFAULTS, FILE, All, Common, check_file
from vpsbackups_async.cli.session import Session

__all__ = ["run"]


def run(
    *servers: Servers,
    html: Annotated[Path, FILE, Parameter(metavar="FILE", help="where to write the page")],
    servers_from: ServersFrom = None,
    all_servers: All = False,
    rpo: Annotated[
        str, Parameter(metavar="TIME", help=f"most age of the newest good backup {A_TIME}; 24h")
    ] = "24h",
    slack: Slack = None,
    kept: Keeps = None,
    reach: Reaches = None,
    days: Annotated[int, WHOLE, Parameter(metavar="N", help="days in the calendar; 30")] = 30,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    wanted = Wanted.of(servers, servers_from, rpo, slack, kept, reach, all_servers=all_servers)
    check_file("--html", html)
    if not 1 <= days <= 366:
        raise UsageError("--days is from 1 to 366")
    with Session(common) as session:
        found = wanted.read(session)
        page = html_report(found.coverage, found.results, days=days)
        write_whole(html, page.encode())
        session.screen.summary(f"{found.summary()}; written to {html}")
    return Exit.FINE
