"""Replace a server by one of its backups, after asking.

It shows which backup of which age would replace which server, and asks; where
nobody can answer it refuses without --yes.

Usage: vpsbackups restore [OPTIONS] SERVER [ID]

  vpsbackups restore 12345 502
  vpsbackups restore web-01 --latest --before 2026-11-20T03:00
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.asking import Yes, agreed, check_asking
from vpsbackups_async.cli.ends import Exit, RefusedError, UsageError
from vpsbackups_async.cli.ids import one_ref
from vpsbackups_async.cli.layouts import BACKUPS
from vpsbackups_async.cli.naming import Latest, find_server, is_id, latest_backup
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.outcomes import NOT_BEGUN, AsOutcomes, Key, NoBackup, Outcomes
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.selection import moment_of
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import age, safe
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import VPSBackupsError
from vpsbackups_async.models import Backup, BackupRef

__all__ = ["run"]


def run(
    server: Annotated[str, Parameter(metavar="SERVER", help="the id or the name of the server")],
    backup: Annotated[
        str | None, Parameter(metavar="ID", help="of a completed backup of this server")
    ] = None,
    /,
    *,
    latest: Latest = False,
    before: Annotated[
        str | None,
        Parameter(
            metavar="WHEN", allow_leading_hyphen=True, help="with --latest: made before this (UTC)"
        ),
    ] = None,
    expect_name: Annotated[
        str | None, Parameter(metavar="NAME", help="refuse a server that is not named so")
    ] = None,
    yes: Yes = False,
    as_outcomes: AsOutcomes = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    ref = None if backup is None else one_ref(backup)
    if (ref is None) != latest:
        raise UsageError("which backup: give its ID, or --latest")
    if before is not None and not latest:
        raise UsageError("--before is of no use without --latest")
    moment = moment_of(before, "--before")
    check_asking(yes=yes)
    with Session(common) as session:

        async def find() -> Backup:
            if ref is None:
                return await latest_backup(session.client, server, moment, expect_name)
            return await _given(session.client, await find_server(session.client, server), ref)

        outcomes = Outcomes(session.screen) if as_outcomes else None
        with _told(outcomes, _key_of(server, ref)):
            found = session.do(find())
            _check_name(found, expect_name)
        if not yes and not _is_agreed(session, found):
            session.screen.note("nothing was restored")
            return Exit.SOME_FAILED
        _restore(session, found, outcomes)
    return Exit.FINE


def _key_of(server: str, ref: BackupRef | None) -> Key:
    """What an object is about before the backup is found."""
    server_id = int(server) if is_id(server) else None
    if ref is not None:
        return BackupRef(ref.id, ref.server_id or server_id)
    return NoBackup(server_id)


@contextmanager
def _told(outcomes: Outcomes | None, key: Key) -> Iterator[None]:
    """A block before anything is sent: if it fails, an object says so."""
    if outcomes is None:
        yield
        return
    outcomes.begin(key)
    try:
        yield
    except (VPSBackupsError, RefusedError) as error:
        outcomes.write(key, None, error)
        raise
    except KeyboardInterrupt:
        with suppress(OSError):
            outcomes.write_failed_as(key, None, NOT_BEGUN)
        raise


def _check_name(found: Backup, expected: str | None) -> None:
    """Raise `RefusedError` if the server is not named as expected."""
    if expected is not None and found.server.name != expected:
        raise RefusedError(
            f"server {found.server.id} is named {safe(found.server.name)!r}, "
            f"not {safe(expected)!r}; nothing was restored"
        )


async def _given(client: BackupsClient, server_id: int, ref: BackupRef) -> Backup:
    """The backup that was named, if it can be restored to the server; raises `RefusedError`."""
    found = await client.get(ref.id)
    for wanted in (server_id, ref.server_id):
        if wanted not in {None, found.server.id}:
            raise RefusedError(
                f"backup {found.id} is of server {found.server.id} "
                f"({safe(found.server.name)}), not of server {wanted}; nothing was restored"
            )
    if not found.is_completed:
        raise RefusedError(
            f"backup {found.id} is {safe(found.status)}, not completed; nothing was restored"
        )
    return found


def _is_agreed(session: Session, found: Backup) -> bool:
    Table(session.screen, BACKUPS, asking=True).rows([found])
    made = f"{age(found.created_at, datetime.now(UTC))} ago"
    session.screen.note(
        f"This backup, made {made}, will replace all that is on {_named(found)} now."
    )
    return agreed(f"Restore server {found.server.id} to what it was {made}?")


def _restore(session: Session, found: Backup, outcomes: Outcomes | None) -> None:
    """Restore the backup and write how that went. Raises what `BackupsClient.restore` raises."""
    if outcomes is not None:
        outcomes.expect([found])
        outcomes.begin(found.ref)
    try:
        done = session.do(session.client.restore(found.server.id, found.id))
    except VPSBackupsError as error:
        if outcomes is not None:
            outcomes.write(found.ref, found, error)
        raise
    except KeyboardInterrupt:
        if outcomes is not None:
            outcomes.write_rest()
        session.screen.note(f"interrupted: the restore of {_named(found)} may have begun", "red")
        raise
    if outcomes is not None:
        outcomes.write(found.ref, found)
    else:
        text = safe(done.message or "the restore has begun")
        session.screen.result(f"{_named(found)}: {text}")


def _named(found: Backup) -> str:
    return f"server {found.server.id} ({safe(found.server.name)})"
