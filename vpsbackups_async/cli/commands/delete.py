"""Delete backups for good, after asking.

It shows them and asks; where nobody can answer it refuses without --yes.

Usage: vpsbackups delete [OPTIONS] ID...

  vpsbackups delete 502:12345 503:12346
  vpsbackups list --status failed | vpsbackups delete --yes --from -
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async._pruning.unreported import Unreported
from vpsbackups_async.cli.asking import Yes, agreed, check_asking
from vpsbackups_async.cli.ends import Exit, UsageError, end_of
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import BackupsFrom, backup_refs, written
from vpsbackups_async.cli.layouts import BACKUPS
from vpsbackups_async.cli.options import DEFAULTS, Common
from vpsbackups_async.cli.outcomes import AsOutcomes, Outcomes
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.session import Session
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import NotInListError
from vpsbackups_async.models import Backup, BackupRef, Outcome

__all__ = ["run"]

_CONCURRENCY: Final = 8


def run(
    *backups: Annotated[str, Parameter(metavar="ID", help="of a backup, or ID:SERVER")],
    source: BackupsFrom = None,
    yes: Yes = False,
    as_outcomes: AsOutcomes = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    refs = backup_refs(backups, source)
    if not refs and source is None:
        raise UsageError("no backup is named: give ids, or --from FILE")
    if not refs:
        Screen(quiet=common.quiet).summary("no backup is named: nothing to delete")
        return Exit.FINE
    check_asking(yes=yes)
    with Session(common) as session:
        screen, failures = session.screen, Failures(session.screen)
        told = Outcomes(screen) if as_outcomes else None
        outcomes = session.do(_find(session.client, refs))
        chosen: list[Backup] = []
        for ref in refs:
            outcome = outcomes[ref]
            if outcome.ok:
                chosen.append(outcome.value)
            elif isinstance(outcome.error, NotInListError) and not outcome.error.moved:
                screen.note(f"backup {written(ref)} is not there", "red")
            elif outcome.error is not None:
                failures.add(f"backup {written(ref)}", outcome.error)
            if told is not None and not outcome.ok:
                told.write(ref, None, outcome.error)
        if chosen and not yes:
            Table(screen, BACKUPS, asking=True).rows(chosen)
            if not agreed(f"Delete {_these(chosen)} for good?"):
                screen.note("nothing was deleted")
                chosen = []
        session.do(_delete(session, chosen, failures, told))
        code = failures.close()
    return code if len(chosen) == len(refs) else max(code, Exit.SOME_FAILED)


async def _find(
    client: BackupsClient, refs: Sequence[BackupRef]
) -> dict[BackupRef, Outcome[BackupRef, Backup]]:
    """The outcome for each ref: its backup, or the error that says why there is none."""
    async with aclosing(client.find(refs)) as outcomes:
        return {outcome.key: outcome async for outcome in outcomes}


async def _delete(
    session: Session, backups: list[Backup], failures: Failures, told: Outcomes | None
) -> None:
    """Delete the backups, and write the ref or the outcome of each."""

    async def work(backup: Backup) -> None:
        if told is not None:
            told.begin(backup.ref)
        unreported.ask(backup)
        try:
            await session.client.delete(backup.id, missing_ok=True)
        except Exception as error:
            unreported.end(backup, error)
            raise
        unreported.end(backup, None)

    screen, done, unreported = session.screen, 0, Unreported()
    if told is not None:
        told.expect(backups)
    try:
        with unreported:
            async with session.display("Deleting") as display:
                outcomes = fan_out(
                    work, backups, concurrency=_CONCURRENCY, on_progress=display.update
                )
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        done += outcome.ok
                        _tell(screen, outcome, failures, told)
                        unreported.report(outcome.key.id)
    except (asyncio.CancelledError, OSError) as error:
        if told is not None:
            told.write_rest()
        planned = len(backups)
        how = end_of(error)
        screen.note(f"{how}: {done:,} of {planned:,} deletions were confirmed before", "red")
        raise


def _tell(
    screen: Screen, outcome: Outcome[Backup, None], failures: Failures, told: Outcomes | None
) -> None:
    """Write how a deletion ended. Raises `OSError` if that cannot be written."""
    ref = written(outcome.key.ref)
    if outcome.error is not None:
        failures.add(f"backup {ref}", outcome.error)
    if told is not None:
        told.write(outcome.key.ref, outcome.key, outcome.error)
    elif outcome.ok:
        screen.result(f"deleted {ref}" if screen.shows_tables else ref)


def _these(backups: list[Backup]) -> str:
    if len(backups) == 1:
        return "this backup"
    servers = len({backup.server.id for backup in backups})
    return f"these {len(backups)} backups of {servers} server{'s' * (servers > 1)}"
