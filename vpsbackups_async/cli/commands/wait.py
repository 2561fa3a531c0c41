"""Wait until backups are completed.

With the server (ID:SERVER) it may take fewer requests. Piped, it writes
ID:SERVER of each that is completed.

Usage: vpsbackups wait [OPTIONS] ID...

  vpsbackups wait 502:12345 503:12346 --timeout 30m
  vpsbackups wait --from started.txt
  vpsbackups list --status in_progress | vpsbackups wait --from -
"""

from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.ids import backup_refs
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.tracker import Timeout, Tracker, seconds_in

__all__ = ["run"]


def run(
    *backups: Annotated[str, Parameter(metavar="ID", help="of a backup, or ID:SERVER")],
    source: Annotated[
        str | None,
        Parameter(
            "--from",
            metavar="FILE",
            allow_leading_hyphen=True,
            help="those that its lines begin with; - is stdin",
        ),
    ] = None,
    timeout: Timeout = None,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    refs = backup_refs(backups, source)
    if not refs and source is None:
        raise UsageError("no backup is named: give ids, or --from FILE")
    seconds = seconds_in(timeout)
    session = Session(common)
    with Tracker(session, waits=True) as tracker:
        return session.do(tracker.wait_for_all(refs, seconds))
