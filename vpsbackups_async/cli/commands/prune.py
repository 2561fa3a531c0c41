"""Show what a policy deletes, and why; with --apply, delete it.

Usage: vpsbackups prune [OPTIONS]

  vpsbackups prune --all --keep-daily 4 --keep-weekly 4 --job nightly
  vpsbackups prune -s 12345 --keep-last 5 --apply --max-deletions 10
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, nullcontext, suppress
from typing import Annotated, Any

from cyclopts import Parameter

from vpsbackups_async._pruning.plan import Caps, PrunePlan
from vpsbackups_async.cli.ends import Exit, UsageError, end_of, explain
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.layouts import DECISIONS
from vpsbackups_async.cli.numbers import NUMBER, WHOLE
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.cli.outcomes import NOT_BEGUN, AsOutcomes, Key, NoBackup, Outcomes
from vpsbackups_async.cli.policy import KEEP, SERVERS, Chosen, Keep
from vpsbackups_async.cli.rows import lines_or_table
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import counted, safe
from vpsbackups_async.errors import PruneRefusedError, VPSBackupsError
from vpsbackups_async.events import AttemptEnded, Event
from vpsbackups_async.models import AllServers, Backup, BackupRef

__all__ = ["run"]


def run(
    *,
    servers: Chosen = SERVERS,
    keep: Keep = KEEP,
    apply: Annotated[Flag, Parameter(help="delete what otherwise is only shown")] = False,
    max_deletions: Annotated[
        int | None, WHOLE, Parameter(metavar="N", help="refuse if more would go")
    ] = None,
    max_fraction: Annotated[
        float,
        NUMBER,
        Parameter(metavar="X", help="refuse if more of a server's would go; 0.5 if not given"),
    ] = 0.5,
    as_outcomes: AsOutcomes = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    retention, ids = keep.retention(), servers.ids()
    if max_deletions is not None and max_deletions < 0:
        raise UsageError("--max-deletions is zero or more")
    if not 0 < max_fraction <= 1:
        raise UsageError("--max-fraction is more than 0, and at most 1")
    caps = Caps(max_deletions, max_fraction)
    with Session(common) as session:
        with _told_of_planning(session, ids, dry=not apply) if as_outcomes else nullcontext():
            plan = session.do(session.client.plan_prune(ids, retention))
        for server in plan.servers:
            if server.problem:
                session.screen.note(f"server {server.server_id}: {safe(server.problem)}", "red")
            elif not server.decisions and not isinstance(ids, AllServers):
                session.screen.note(f"server {server.server_id}: no manual backups")
        code = Exit.SOME_FAILED if any(server.problem for server in plan.servers) else Exit.FINE
        told = _Told(session, plan, is_done=apply) if as_outcomes else None
        if apply:
            return max(code, session.do(_apply(session, plan, caps, told)))
        return max(code, _show(session, plan, caps, told))


@contextmanager
def _told_of_planning(
    session: Session, servers: list[int] | AllServers, *, dry: bool
) -> Iterator[None]:
    """A block that makes the plan: if it fails, an object for each of these servers says so."""
    outcomes, more = Outcomes(session.screen), {"reason": None} | ({"dry_run": True} if dry else {})
    keys = [NoBackup(None)] if isinstance(servers, AllServers) else list(map(NoBackup, servers))
    for key in keys:
        outcomes.begin(key)
    try:
        yield
    except VPSBackupsError as error:
        for key in keys:
            outcomes.write(key, None, error, **more)
        raise
    except KeyboardInterrupt:
        with suppress(OSError):
            for key in keys:
                outcomes.write_failed_as(key, None, NOT_BEGUN, **more)
        raise


def _failed(plan: PrunePlan) -> str:
    """How many servers nothing could be decided about, for a summary; empty if none."""
    count = sum(bool(server.problem) for server in plan.servers)
    return f"{counted(count, 'server')} failed" if count else ""


def _show(session: Session, plan: PrunePlan, caps: Caps, told: "_Told | None") -> Exit:
    """Write a row for each backup, or an object for each that would go; and how many would."""
    writer = lines_or_table(session.screen, DECISIONS)
    for server in plan.servers:
        if told is None and server.decisions and not server.problem:
            writer.rows(server.decisions)
    try:
        caps.check(plan.servers, plan.retention.job)
    except PruneRefusedError as refusal:
        if told is not None:
            told.end_rest(refusal)
        session.screen.note(f"--apply would refuse this: {explain(refusal)}", "red")
        return Exit.SOME_FAILED
    if told is not None:
        told.end_rest(None)
    count = f"{len(plan.deleted):,} would be deleted, {plan.mb_freed:,} MB"
    failed = f"; {_failed(plan)}" if _failed(plan) else ""
    session.screen.summary(f"{count}; nothing was deleted: --apply does it{failed}")
    return Exit.FINE


class _Told(Outcomes):
    """The outcomes of deletions, each of which begins with its first request, or of a plan.

    An object also has the `reason` why the backup goes, and `dry_run` unless `is_done`. A server
    of which nothing can go has an object at once that says why.
    """

    def __init__(self, session: Session, plan: PrunePlan, *, is_done: bool) -> None:
        super().__init__(session.screen)
        self.backups: dict[BackupRef, Backup] = {backup.ref: backup for backup in plan.deleted}
        self.expect(plan.deleted)
        self._dry: dict[str, bool] = {} if is_done else {"dry_run": True}
        decisions = (one for server in plan.servers for one in server.decisions)
        self._reasons: dict[Key, str] = {one.backup.ref: str(one.reason) for one in decisions}
        self._refs = {str(ref.id): ref for ref in self.backups}
        session.hear(self._on_event)
        for server in plan.servers:
            if server.problem:
                kind = server.problem_type or PruneRefusedError.__name__
                failed = (kind, safe(server.problem))
                self.write_failed_as(NoBackup(server.server_id), None, failed)

    def write_failed_as(
        self, key: Key, backup: Backup | None, failed: tuple[str, str] | None, **more: Any
    ) -> None:
        """Write how an item ended, or would."""
        reason = self._reasons.get(key)
        super().write_failed_as(key, backup, failed, reason=reason, **self._dry, **more)

    def end_rest(self, error: VPSBackupsError | None) -> None:
        """Write that all of which nothing was written end so."""
        for ref, backup in list(self._expected.items()):
            self.write(ref, backup, error)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, AttemptEnded) and event.kind == "delete":
            ref = self._refs.get(event.path.strip("/").rpartition("/")[2])
            if ref is not None:
                self.begin(ref, event.seconds)


async def _apply(session: Session, plan: PrunePlan, caps: Caps, told: _Told | None) -> Exit:
    """Delete what the plan says, and write the ref or the outcome of each."""
    screen, failures, done = session.screen, Failures(session.screen), 0
    try:
        outcomes = session.client.apply(
            plan, max_deletions=caps.deletions, max_fraction=caps.fraction
        )
        async with aclosing(outcomes):
            async for outcome in outcomes:
                ref = written(outcome.key)
                done += outcome.ok
                if outcome.error is not None:
                    failures.add(f"backup {ref}", outcome.error)
                if told is not None:
                    told.write(outcome.key, told.backups.get(outcome.key), outcome.error)
                elif outcome.ok:
                    screen.result(f"deleted {ref}" if screen.shows_tables else ref)
    except VPSBackupsError as error:
        if told is not None:
            told.end_rest(error)
        raise
    except (asyncio.CancelledError, OSError) as error:
        if told is not None:
            told.write_rest()
        planned = len(plan.deleted)
        how = end_of(error)
        screen.note(f"{how}: {done:,} of {planned:,} deletions were confirmed before", "red")
        raise
    code = failures.close()
    not_deleted = f"{failures.count:,} not" if failures.count else ""
    screen.summary(", ".join(filter(None, (f"{done:,} deleted", not_deleted, _failed(plan)))))
    return code
