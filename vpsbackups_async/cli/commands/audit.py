"""Say which servers lack a recent good backup; exit 1 if any does.

Usage: vpsbackups audit [OPTIONS] [SERVER...]

  vpsbackups audit --rpo 24h --slack 2h
  vpsbackups audit --rpo 24h --json | jq '.servers[] | select(.state != "ok")'
"""

import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from vpsbackups_async.audit import Coverage
from vpsbackups_async.cli.auditing import (
    COVERAGE,
    Audited,
    Keeps,
    Reaches,
    Servers,
    ServersFrom,
    Slack,
    Wanted,
)
from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.options import A_TIME, DEFAULTS, FILE, All, Common, Flag, Ping, check_file
from vpsbackups_async.cli.pings import Pings
from vpsbackups_async.cli.rows import lines_or_table
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.session import Session

__all__ = ["run"]


def run(
    *servers: Servers,
    rpo: Annotated[
        str, Parameter(metavar="TIME", help=f"the most age of the newest good backup {A_TIME}")
    ],
    servers_from: ServersFrom = None,
    all_servers: All = False,
    slack: Slack = None,
    kept: Keeps = None,
    reach: Reaches = None,
    json: Annotated[Flag, Parameter(help="one JSON object, with the controls")] = False,
    prometheus: Annotated[
        Path | None,
        FILE,
        Parameter(metavar="FILE", help="metrics for node_exporter; needs the extra metrics"),
    ] = None,
    ping: Ping = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    wanted = Wanted.of(servers, servers_from, rpo, slack, kept, reach, all_servers=all_servers)
    write = None if prometheus is None else _metrics_writer()
    if prometheus is not None:
        check_file("--prometheus", prometheus)
    pings = Pings(ping, Screen(quiet=common.quiet))
    with pings, Session(common) as session:
        found = wanted.read(session)
        if write is not None:
            write(found.coverage, prometheus)
        pings.ends(ok=found.ok, text=found.summary())
        _show(session.screen, found, as_json=json)
        session.screen.summary(found.summary())
    return found.code


def _metrics_writer() -> Callable[[Coverage, Any], None]:
    """What writes metrics; raises `UsageError` if its extra is missing."""
    try:
        from vpsbackups_async.metrics import write_textfile  # noqa: PLC0415  # may be missing
    except ImportError as error:
        raise UsageError(f"--prometheus: {error}") from error
    return write_textfile


def _show(screen: Screen, found: Audited, *, as_json: bool) -> None:
    coverage = found.coverage
    if as_json:
        controls = [one.as_dict() for one in found.results]
        text = json_module.dumps({**coverage.as_dict(), "controls": controls})
        screen.raw(text.encode() + b"\n")
        return
    lines_or_table(screen, COVERAGE).rows(coverage.servers)
