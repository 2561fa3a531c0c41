"""Write an HTML page: what is wrong, what to do, a calendar.

Usage: vpsbackups report --html FILE [OPTIONS] [SERVER...]

  vpsbackups report --html backups.html --days 90 --kept 3 --reach 14d
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.audit import html_report
from vpsbackups_async.cli.auditing import Keeps, Reaches, Servers, ServersFrom, Slack, Wanted
from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.options import A_TIME, DEFAULTS, All, Common
from vpsbackups_async.cli.session import Session

__all__ = ["run"]


def run(
    *servers: Servers,
    html: Annotated[Path, Parameter(metavar="FILE", help="where to write the page")],
    servers_from: ServersFrom = None,
    all_servers: All = False,
    rpo: Annotated[
        str, Parameter(metavar="TIME", help=f"most age of the newest good backup {A_TIME}; 24h")
    ] = "24h",
    slack: Slack = None,
    kept: Keeps = None,
    reach: Reaches = None,
    days: Annotated[int, Parameter(metavar="N", help="days in the calendar; 30")] = 30,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    wanted = Wanted.of(servers, servers_from, rpo, slack, kept, reach, all_servers=all_servers)
    if not html.absolute().parent.is_dir():
        raise UsageError(f"--html {str(html)!r}: there is no such folder")
    if not 1 <= days <= 366:
        raise UsageError("--days is from 1 to 366")
    with Session(common) as session:
        found = wanted.read(session)
        _replace(html, html_report(found.coverage, found.results, days=days))
        session.screen.summary(f"{found.summary()}; written to {html}")
    return Exit.FINE


def _replace(file: Path, text: str) -> None:
    """Write the file in one step, so that a web server never sends half of it."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as out:  # noqa: PTH123  # a descriptor
            out.write(text)
        Path(name).chmod(mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
