"""Plans: which backups of which servers are to be deleted, and why. Values and pure rules."""

from collections.abc import Iterable
from datetime import datetime

from attrs import frozen

from vpsbackups_async._checks import check_int, check_number
from vpsbackups_async._tags import has_readable_label, job_of, same
from vpsbackups_async.errors import PruneRefusedError
from vpsbackups_async.models import Backup
from vpsbackups_async.retention import Decision, Retention

__all__ = ["Caps", "PrunePlan", "ServerPlan", "check_separate", "is_of", "plan_of"]


@frozen
class ServerPlan:
    """What a policy decided about the manual backups of one server, newest first.

    `problem` says why nothing of this server is deleted, whatever was decided: its list could not
    be read completely, or the policy does not fit into its quota. It is empty if there is none.
    `problem_type` is the name of the class of the error that it tells of, such as "ServerError";
    empty if no error is behind it.
    """

    server_id: int
    decisions: tuple[Decision, ...] = ()
    problem: str = ""
    problem_type: str = ""

    @property
    def deleted(self) -> tuple[Backup, ...]:
        """The backups that are to be deleted, oldest first; none if there is a problem."""
        if self.problem:
            return ()
        return tuple(one.backup for one in reversed(self.decisions) if not one.kept)

    @property
    def kept(self) -> tuple[Backup, ...]:
        """The backups that stay, newest first."""
        return tuple(one.backup for one in self.decisions if self.problem or one.kept)

    @property
    def mb_freed(self) -> int:
        """The sizes of the backups that are to be deleted, in MB; unknown ones count as 0."""
        return sum(backup.size_mb or 0 for backup in self.deleted)

    def __str__(self) -> str:
        if self.problem:
            return f"server {self.server_id}: nothing is deleted: {self.problem}"
        counts = f"{len(self.deleted)} go ({self.mb_freed} MB), {len(self.kept)} stay"
        lines = (f"  {decision}" for decision in self.decisions)
        return "\n".join([f"server {self.server_id}: {counts}", *lines])


@frozen
class PrunePlan:
    """Which backups are to be deleted, which stay, and why, for each server on its own.

    It is frozen, prints as text, and is stored by `to_json` and read by `from_json`. `made_at` is
    the time in UTC by the clock of this machine.
    """

    retention: Retention
    made_at: datetime
    servers: tuple[ServerPlan, ...]

    @property
    def deleted(self) -> tuple[Backup, ...]:
        """The backups that are to be deleted, server by server, the oldest of each first."""
        return tuple(backup for server in self.servers for backup in server.deleted)

    @property
    def mb_freed(self) -> int:
        """The sizes of the backups that are to be deleted, in MB; unknown ones count as 0."""
        return sum(server.mb_freed for server in self.servers)

    def __str__(self) -> str:
        stay = sum(len(server.kept) for server in self.servers)
        counts = f"{len(self.deleted)} go ({self.mb_freed} MB), {stay} stay"
        head = f"{self.retention!r}: {counts}, on {len(self.servers)} servers"
        return "\n".join([head, *map(str, self.servers)])


def check_separate(servers: Iterable[ServerPlan]) -> None:
    """Raise `PruneRefusedError` unless each server and backup is planned once, where it belongs."""
    planned: set[int] = set()
    for server in servers:
        number = server.server_id
        if number in planned:
            raise _mixed_up(f"server {number} is in the plan twice")
        planned.add(number)
        seen: set[int] = set()
        for backup in (one.backup for one in server.decisions):
            if backup.server.id != number:
                raise _mixed_up(
                    f"backup {backup.id} of server {backup.server.id} is in the plan of server "
                    f"{number}"
                )
            if backup.id in seen:
                raise _mixed_up(f"backup {backup.id} is in the plan of server {number} twice")
            seen.add(backup.id)


def _mixed_up(what: str) -> PruneRefusedError:
    return PruneRefusedError(f"{what}: nothing was deleted")


def plan_of(server_id: int, decisions: tuple[Decision, ...], retention: Retention) -> ServerPlan:
    """The plan for a server by the decisions about all of its manual backups."""
    fit = retention.fit(decisions)
    return ServerPlan(server_id, decisions, "" if fit.fits else str(fit))


class Caps:
    """How much a plan may delete, beyond which it is refused before anything goes.

    `deletions` bounds the number for each server and for the whole plan. `fraction` bounds the
    share of each server's manual backups of the policy's job, and so that of the whole plan.
    Raises `ValueError` for values out of range.
    """

    def __init__(self, deletions: int | None = None, fraction: float = 0.5) -> None:
        if deletions is not None:
            check_int("max_deletions", deletions, 0)
        check_number("max_fraction", fraction, unit="share")
        if fraction > 1:
            raise ValueError(f"max_fraction must be 1 or less, not {fraction!r}")
        self.deletions = deletions
        self.fraction = fraction

    def check(self, servers: Iterable[ServerPlan], job: str | None) -> None:
        """Raise `PruneRefusedError` if these plans delete more than is allowed."""
        total = 0
        for server in servers:
            count = len(server.deleted)
            own = sum(is_of(job, one.backup) for one in server.decisions)
            total += count
            if count > self.fraction * own:
                raise PruneRefusedError(
                    f"{count} of the {own} backups of server {server.server_id} were to be deleted",
                    "max_fraction",
                    self.fraction,
                )
        if self.deletions is not None and total > self.deletions:
            raise PruneRefusedError(
                f"{total} backups were to be deleted", "max_deletions", self.deletions
            )


def is_of(job: str | None, backup: Backup) -> bool:
    """Whether this is certainly a manual backup of the job, pinned or not."""
    description = backup.description
    return backup.is_manual and has_readable_label(description) and same(job_of(description), job)
