"""`vpsbackups delete` and `vpsbackups restore`: what cannot be undone is shown first, and asked."""

import sys
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async.cli.ends import Exit, RefusedError, UsageError
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import backup_refs, one_ref, one_server, written
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import age, safe
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import NotFoundError
from vpsbackups_async.models import Backup, BackupRef, Outcome

__all__ = ["delete", "restore"]

_AT_ONCE: Final = 8

_Yes = Annotated[Flag, Parameter(("--yes", "-y"), help="do not ask")]


def delete(
    *backups: Annotated[str, Parameter(metavar="ID", help="of a backup, or ID:SERVER")],
    yes: _Yes = False,
    common: Common = DEFAULTS,
) -> int:
    """Delete backups for good, each given by ID or ID:SERVER. Shows them first, and asks.

    Without --yes it refuses where nobody can answer. Piped, it writes what it deleted.
    """
    refs = backup_refs(backups, None)
    if not refs:
        raise UsageError("no backup is named")
    _check_asking(yes=yes)
    with Session(common) as session:
        screen, failures = session.screen, Failures(session.screen)
        outcomes = session.do(_find(session.client, refs))
        lost: list[Backup] = []
        for ref in refs:
            outcome = outcomes[ref]
            if outcome.value is not None:
                lost.append(outcome.value)
            elif isinstance(outcome.error, NotFoundError):
                screen.note(f"backup {written(ref)} is not there", "red")
            elif outcome.error is not None:
                failures.add(f"backup {written(ref)}", outcome.error)
        if lost and not yes:
            Table(screen, asking=True).rows(lost)
        if lost and (yes or _agreed(f"Delete {_these(lost)} for good?")):
            session.do(_delete(session, lost, failures))
        elif lost:
            screen.note("nothing was deleted")
            return Exit.SOME_FAILED
        code = failures.close()
    return code if len(lost) == len(refs) else max(code, Exit.SOME_FAILED)


def restore(
    server: Annotated[str, Parameter(metavar="SERVER", help="the id of the server")],
    backup: Annotated[str, Parameter(metavar="ID", help="of a completed backup of this server")],
    /,
    *,
    yes: _Yes = False,
    common: Common = DEFAULTS,
) -> int:
    """Replace what is on a server by one of its completed backups. Shows which, and asks.

    Without --yes it refuses where nobody can answer.
    """
    server_id, ref = one_server(server), one_ref(backup)
    _check_asking(yes=yes)
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
            Table(session.screen, asking=True).rows([found])
            made = f"{age(found.created_at, datetime.now(UTC))} ago"
            session.screen.note(
                f"This backup, made {made}, will replace all that is on {named} now."
            )
            if not _agreed(f"Restore server {server_id} to what it was {made}?"):
                session.screen.note("nothing was restored")
                return Exit.SOME_FAILED
        done = session.do(session.client.restore(server_id, found.id))
        session.screen.result(f"{named}: {safe(done.message or 'the restore has begun')}")
    return Exit.FINE


async def _find(
    client: BackupsClient, refs: Sequence[BackupRef]
) -> dict[BackupRef, Outcome[BackupRef, Backup]]:
    """The outcome of the search for each backup: the backup, or why there is none."""
    async with aclosing(client.find(refs)) as outcomes:
        return {outcome.key: outcome async for outcome in outcomes}


async def _delete(session: Session, lost: list[Backup], failures: Failures) -> None:
    """Delete them, and write each that is gone."""

    async def work(backup: Backup) -> None:
        await session.client.delete(backup.id, missing_ok=True)

    screen = session.screen
    async with Display(screen, "Deleting", session.stats) as display:
        outcomes = fan_out(work, lost, concurrency=_AT_ONCE, on_progress=display.update)
        async with aclosing(outcomes):
            async for outcome in outcomes:
                ref = written(outcome.key.ref)
                if outcome.error is not None:
                    failures.add(f"backup {ref}", outcome.error)
                else:
                    screen.result(f"deleted {ref}" if screen.out.is_terminal else ref)


def _check_asking(*, yes: bool) -> None:
    """Raise `UsageError` where nobody can be asked."""
    if not yes and not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("nobody can be asked here: give --yes if it is meant")


def _agreed(question: str) -> bool:
    """Whether the answer is yes; anything else is no."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}


def _these(backups: list[Backup]) -> str:
    if len(backups) == 1:
        return "this backup"
    servers = len({backup.server.id for backup in backups})
    return f"these {len(backups)} backups of {servers} server{'s' * (servers > 1)}"
