"""Show one backup in full.

Usage: vpsbackups show [OPTIONS] ID

  vpsbackups show 502:12345
  vpsbackups show web-01 --latest
  vpsbackups show 502 --json | jq .status
"""

from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.ids import one_ref
from vpsbackups_async.cli.naming import Latest, latest_backup
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.cli.rows import json_line
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import age, moment, safe, size
from vpsbackups_async.models import Backup

__all__ = ["run"]


def run(
    backup: Annotated[
        str,
        Parameter(metavar="ID", help="of a backup, or ID:SERVER; of a server with --latest"),
    ],
    /,
    *,
    latest: Latest = False,
    json: Annotated[Flag, Parameter(help="as the API writes it")] = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    ref = None if latest else one_ref(backup)
    with Session(common) as session:

        async def find() -> Backup:
            client = session.client
            if ref is None:
                return await latest_backup(client, backup)
            return await client.get(ref.id, server_id=ref.server_id)

        found = session.do(find())
        if json:
            session.screen.raw(json_line(found) + b"\n")
        else:
            session.screen.result(_described(found))
    return Exit.FINE


def _described(backup: Backup) -> str:
    expires = backup.expires_at
    facts = {
        "backup": str(backup.id),
        "server": f"{backup.server.id} {safe(backup.server.name)}".rstrip(),
        "type": safe(backup.backup_type),
        "status": safe(backup.status),
        "size": size(backup.size_mb),
        "created": f"{moment(backup.created_at)} UTC "
        f"({age(backup.created_at, datetime.now(UTC))} ago)",
        "expires": "never" if expires is None else f"{moment(expires)} UTC",
        "description": safe(backup.description) or "-",
    }
    return "\n".join(f"{name:<12} {value}" for name, value in facts.items())
