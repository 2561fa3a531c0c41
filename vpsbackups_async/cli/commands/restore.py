"""Replace a server by one of its backups, after asking.

It shows which backup of which age would replace which server, and asks; where
nobody can answer it refuses without --yes.

Usage: vpsbackups restore [OPTIONS] SERVER ID

  vpsbackups restore 12345 502
"""

from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.asking import Yes, agreed, check_asking
from vpsbackups_async.cli.ends import Exit, RefusedError
from vpsbackups_async.cli.ids import one_ref, one_server
from vpsbackups_async.cli.layouts import BACKUPS
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import age, safe

__all__ = ["run"]


def run(
    server: Annotated[str, Parameter(metavar="SERVER", help="the id of the server")],
    backup: Annotated[str, Parameter(metavar="ID", help="of a completed backup of this server")],
    /,
    *,
    yes: Yes = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    server_id, ref = one_server(server), one_ref(backup)
    check_asking(yes=yes)
    with Session(common) as session:
        found = session.do(session.client.get(ref.id))
        if server_id != found.server.id or ref.server_id not in {None, server_id}:
            raise RefusedError(
                f"backup {found.id} is of server {found.server.id} "
                f"({safe(found.server.name)}), not of server {server_id}; nothing was restored"
            )
        if not found.is_completed:
            raise RefusedError(
                f"backup {found.id} is {safe(found.status)}, not completed; nothing was restored"
            )
        named = f"server {server_id} ({safe(found.server.name)})"
        if not yes:
            Table(session.screen, BACKUPS, asking=True).rows([found])
            made = f"{age(found.created_at, datetime.now(UTC))} ago"
            session.screen.note(
                f"This backup, made {made}, will replace all that is on {named} now."
            )
            if not agreed(f"Restore server {server_id} to what it was {made}?"):
                session.screen.note("nothing was restored")
                return Exit.SOME_FAILED
        done = session.do(session.client.restore(server_id, found.id))
        session.screen.result(f"{named}: {safe(done.message or 'the restore has begun')}")
    return Exit.FINE
