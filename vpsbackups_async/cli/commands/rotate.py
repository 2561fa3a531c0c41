"""Make a backup, verify it, then delete what a policy lets go.

Usage: vpsbackups rotate [OPTIONS]

  vpsbackups rotate --all --job nightly --keep-daily 4 --keep-weekly 4
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async._pruning.rotation import Rotation
from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.layouts import DECISIONS
from vpsbackups_async.cli.numbers import WHOLE
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag, Ping, Timeout, timeout_seconds
from vpsbackups_async.cli.outcomes import AsOutcomes, Taken, all_taken
from vpsbackups_async.cli.pings import Pings
from vpsbackups_async.cli.policy import KEEP, SERVERS, Chosen, Keep
from vpsbackups_async.cli.rows import Writer, open_writer
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.selection import PAGE
from vpsbackups_async.cli.text import safe
from vpsbackups_async.cli.tracker import Tracker
from vpsbackups_async.errors import (
    AuthenticationError,
    ManualBackupLimitError,
    PermissionDeniedError,
    PruneRefusedError,
    WaitTimeoutError,
)
from vpsbackups_async.events import DeletionEnded, Event
from vpsbackups_async.models import AllServers, Backup, Outcome
from vpsbackups_async.retention import Decision

__all__ = ["run"]

_MAKE_ROOM: Final = (
    "Delete a manual backup of this server that is no longer needed, or give --make-room"
)
_MAY_RUN: Final = (AuthenticationError, PermissionDeniedError, WaitTimeoutError)
"""The errors that end a wait whose backup may still be running."""


def run(
    *,
    servers: Chosen = SERVERS,
    keep: Keep = KEEP,
    description: Annotated[
        str | None, Parameter(("--description", "-d"), metavar="TEXT", help="of the new backups")
    ] = None,
    make_room: Annotated[
        Flag, Parameter(help="on a full server, delete one good backup first")
    ] = False,
    dry_run: Annotated[Flag, Parameter(help="only show what would be done")] = False,
    ping: Ping = None,
    timeout: Timeout = None,
    max_running: Annotated[int | None, WHOLE, Parameter(metavar="N", show=False)] = None,
    as_outcomes: AsOutcomes = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    retention, ids = keep.retention(), servers.ids()
    if retention.job is None:
        raise UsageError("--job NAME is needed: it labels what is made, and only that is deleted")
    if max_running is not None and max_running < 1:
        raise UsageError("--max-running is one or more")
    seconds = timeout_seconds(timeout)
    named = None if isinstance(ids, AllServers) else ids
    pings = Pings(None if dry_run else ping, Screen(quiet=common.quiet))
    deletions = _Deletions()
    tracker = Tracker(
        common, waits=True, servers=named, as_outcomes=as_outcomes, more_of=deletions.of
    )
    with pings, tracker:
        session = tracker.session
        session.hear(deletions.on_event)

        async def work() -> Exit:
            async with session.display("Rotating") as display:
                source = (
                    all_taken(session.client.servers(page_size=PAGE), tracker.begin)
                    if isinstance(ids, AllServers)
                    else Taken(ids, tracker.begin)
                )
                outcomes = session.client.fleet(source).rotate(
                    retention,
                    description=description,
                    make_room=make_room,
                    timeout=seconds,
                    dry_run=dry_run,
                    max_running=max_running,
                    on_progress=display.update,
                )
                code, text = await _follow(
                    tracker, outcomes, deletions, dry_run=dry_run, make_room=make_room
                )
            session.screen.summary(text)
            pings.ends(ok=code == Exit.FINE, text=text)
            return code

        return session.do(work())


class _Deletions:
    """Which backups of a server were deleted so far, and which may have been; by their ids."""

    def __init__(self) -> None:
        self._certain: dict[int, list[int]] = {}
        self._in_doubt: dict[int, list[int]] = {}

    def on_event(self, event: Event) -> None:
        """Note a deletion."""
        if isinstance(event, DeletionEnded) and event.deleted is not False:
            ids = self._certain if event.deleted else self._in_doubt
            ids.setdefault(event.backup.server.id, []).append(event.backup.id)

    def of(self, server_id: int) -> dict[str, list[int]]:
        """The fields `deleted` and, if there are such, `in_doubt` of an outcome."""
        fields = {"deleted": self._certain.get(server_id, [])}
        if server_id in self._in_doubt:
            fields["in_doubt"] = self._in_doubt[server_id]
        return fields


async def _follow(
    tracker: Tracker,
    outcomes: AsyncGenerator[Outcome[int, Rotation]],
    deletions: _Deletions,
    *,
    dry_run: bool,
    make_room: bool,
) -> tuple[Exit, str]:
    """Write what became of each server; the exit code, and a summary."""
    screen = tracker.session.screen
    failures = Failures(screen, given=tracker.given)
    writer = open_writer("table", screen, DECISIONS)
    made = deleted = full = 0
    async with aclosing(outcomes):
        async for outcome in outcomes:
            if not isinstance(outcome.error, _MAY_RUN):
                tracker.has_none_running(outcome.key)
            if tracker.outcomes is not None:
                _write(tracker, outcome, deletions, dry_run=dry_run)
            if outcome.error is not None:
                deleted += len(deletions.of(outcome.key)["deleted"])
                _tell_failure(screen, failures, outcome.key, outcome.error, make_room=make_room)
                continue
            rotation = outcome.value
            deleted += len(rotation.deleted)
            if rotation.backup is None:
                full += bool(rotation.plan.problem)
                if tracker.outcomes is None:
                    _show(screen, writer, rotation)
            else:
                made += 1
                if tracker.outcomes is None:
                    screen.result(_line(screen, rotation, rotation.backup))
    writer.end()
    code = failures.close()
    failed = f", {failures.count:,} failed" if failures.count else ""
    if dry_run:
        text = f"{deleted:,} would be deleted; nothing was done{failed}"
        return max(code, Exit.SOME_FAILED) if full else code, text
    return code, f"{made:,} made, {deleted:,} deleted{failed}"


def _tell_failure(
    screen: Screen, failures: Failures, server_id: int, error: Exception, *, make_room: bool
) -> None:
    """Write what failed, with its notes."""
    if isinstance(error, ManualBackupLimitError) and not make_room:
        error.hint = _MAKE_ROOM
    failures.add(f"server {server_id}", error)
    for note in getattr(error, "__notes__", ()):
        screen.note(safe(note), "red")


def _write(
    tracker: Tracker, outcome: Outcome[int, Rotation], deletions: _Deletions, *, dry_run: bool
) -> None:
    """Write the outcome of a server, with what was deleted, or would be."""
    dry = {"dry_run": True} if dry_run else {}
    if outcome.error is not None:
        tracker.write(outcome.key, None, outcome.error, **deletions.of(outcome.key), **dry)
        return
    rotation = outcome.value
    problem = rotation.plan.problem if rotation.backup is None else ""
    error = PruneRefusedError(problem) if problem else None
    deleted = [one.id for one in rotation.deleted]
    tracker.write(outcome.key, rotation.backup, error, deleted=deleted, **dry)


def _show(screen: Screen, writer: Writer[Decision], rotation: Rotation) -> None:
    """Write what a dry run says of a server."""
    if rotation.plan.problem:
        screen.note(f"server {rotation.server_id}: {safe(rotation.plan.problem)}", "red")
    if rotation.freed is not None:
        screen.note(f"backup {written(rotation.freed.ref)} would be deleted first, to free a place")
    if rotation.plan.decisions and not rotation.plan.problem:
        writer.rows(rotation.plan.decisions)


def _line(screen: Screen, rotation: Rotation, backup: Backup) -> str:
    ref = written(backup.ref)
    gone = " ".join(written(one.ref) for one in rotation.deleted)
    if not screen.shows_tables:
        return ref
    return f"made {ref}{f', deleted {gone}' if gone else ''}"
