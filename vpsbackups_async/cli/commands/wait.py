"""Wait until backups are completed.

With the server (ID:SERVER) it may take fewer requests. Piped, it writes
ID:SERVER of each that is completed.

Usage: vpsbackups wait [OPTIONS] ID...

  vpsbackups wait 502:12345 503:12346 --timeout 30m
  vpsbackups wait --from started.txt
  vpsbackups list --status in_progress | vpsbackups wait --from -
"""

from typing import Annotated

from attrs import evolve
from cyclopts import Parameter

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async.backoff import Attempt
from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.ids import BackupsFrom, backup_refs
from vpsbackups_async.cli.options import DEFAULTS, Common, Timeout, timeout_seconds
from vpsbackups_async.cli.outcomes import AsOutcomes
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.tracker import Tracker
from vpsbackups_async.client import DEFAULT_WAIT_BACKOFF
from vpsbackups_async.models import Backup, BackupRef

__all__ = ["run"]


def run(
    *backups: Annotated[str, Parameter(metavar="ID", help="of a backup, or ID:SERVER")],
    source: BackupsFrom = None,
    timeout: Timeout = None,
    as_outcomes: AsOutcomes = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    refs = backup_refs(backups, source)
    if not refs and source is None:
        raise UsageError("no backup is named: give ids, or --from FILE")
    seconds = timeout_seconds(timeout)
    if not refs:
        Screen(quiet=common.quiet).summary("no backup is named: nothing to wait for")
        return Exit.FINE
    with Tracker(common, waits=True, running=refs, as_outcomes=as_outcomes) as tracker:
        session = tracker.session

        async def wait(ref: BackupRef) -> Backup:
            if tracker.outcomes is not None:
                tracker.outcomes.begin(ref)

            def saw(attempt: Attempt) -> None:
                tracker.saw(ref, attempt.backup)

            done = await session.client.wait(ref, backoff=_at_once, timeout=seconds, on_poll=saw)
            tracker.has_ended(ref)
            return done

        async def work() -> Exit:
            async with session.display("Waiting") as display:
                await tracker.follow(
                    fan_out(wait, refs, concurrency=None, on_progress=display.update)
                )
            return tracker.end()

        return session.do(work())


def _at_once(attempt: Attempt) -> float:
    """The default backoff, but with a first poll at once: the backup may be completed already."""
    if attempt.number == 1:
        return 0.0
    return DEFAULT_WAIT_BACKOFF(evolve(attempt, number=attempt.number - 1))
