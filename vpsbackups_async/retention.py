"""Which backups of a server to keep: pure rules over the backups, without a client.

`Retention.decide` takes all backups of one server and says of each whether it is to be kept, and
why. Deleting them is up to the caller.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta, tzinfo
from typing import Any, Final

from attrs import evolve, field, fields, frozen

from vpsbackups_async import _tags
from vpsbackups_async._checks import check_duration, check_int
from vpsbackups_async._decisions import Decision, Reason
from vpsbackups_async._periods import PERIODS, local, zone_of
from vpsbackups_async._places import most_kept, reduced
from vpsbackups_async.models import Backup, as_utc, ended_badly, is_good, is_running

__all__ = ["Decision", "Fit", "Reason", "Retention"]

_SKEW: Final = timedelta(minutes=10)
"""How far the clocks of the server and of this machine may differ."""

_COUNTS: Final = ("last", *PERIODS)
"""The rules that keep a number of backups, in their order."""


_HELD_BY_OTHERS: Final = frozenset({
    Reason.OTHER_JOB, Reason.UNREADABLE_LABEL, Reason.UNKNOWN_STATUS, Reason.FROM_THE_FUTURE,
})  # fmt: skip


@frozen
class Fit:
    """Whether a policy fits into the quota of a server.

    After each deletion the policy keeps `worst_case` backups at most (with `within`, as many as it
    keeps now). `pinned` and `others` count the manual backups that it leaves alone. One more place
    is needed for the backup that is made next. `smaller` is a policy that fits, None if this one
    does or none can.
    """

    retention: "Retention"
    worst_case: int
    pinned: int
    others: int
    smaller: "Retention | None"

    @property
    def needed(self) -> int:
        """The places that are needed, that of the next backup included."""
        return self.worst_case + self.pinned + self.others + 1

    @property
    def fits(self) -> bool:
        """Whether the quota has a place for the next backup, whatever the policy keeps."""
        return self.needed <= self.retention.quota

    def __str__(self) -> str:
        verb = "fits into" if self.fits else "does not fit into"
        text = (
            f"a policy of {self.retention.rules} {verb} {self.retention.quota} places: it may keep "
            f"{self.worst_case}, {self.pinned} are pinned, {self.others} are not its own, and the "
            "next backup needs one"
        )
        if self.fits:
            return text
        return f"{text}; {f'{self.smaller.rules} fits' if self.smaller else 'none does'}"


@frozen(kw_only=True, repr=False)
class Retention:
    """Which manual backups of a job to keep on each server.

    - `last` keeps the newest backups, that many of them.
    - `hourly`, `daily`, `weekly`, `monthly` and `yearly` keep the newest backup of each of the
      newest hours (days, ISO weeks, months, years) that have one, that many of them.
    - `within` keeps what is less than that much older than the newest backup.
    - `tz` is the time zone of all periods and of pins, such as `"Europe/Berlin"`. Where clocks are
      put back, the hour that comes twice is one hour.
    - `stacked=True`: each rule, in the order `within`, `last`, `hourly` to `yearly`, passes over
      what a rule before it keeps, so that few places reach far back (as `borg prune`). With False,
      each rule looks at all backups (as `restic forget`).
    - `job` is whose backups these are: those with the label `[job:...]`, None for those without
      one. All others stay.
    - `min_keep` of the newest completed backups stay, whatever the rules say.
    - `failed_after`: a failed backup goes once it is that old and a newer one completed. One that
      is completed with 0 MB counts as failed; an unknown size does not tell.
    - `quota` is how many manual backups a server can hold.

    Raises `ValueError` for values of the wrong kind or out of range, and if no rule keeps anything.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    tz: str = "UTC"
    stacked: bool = True
    job: str | None = None
    min_keep: int = 1
    failed_after: timedelta = timedelta(days=2)
    quota: int = 10
    _zone: tzinfo = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        for rule in _COUNTS:
            check_int(rule, getattr(self, rule), 0)
        if self.within is not None:
            check_duration("within", self.within)
        if self.within is None and not any(self._counts.values()):
            raise ValueError(f"a policy that keeps nothing: give within or one of {_COUNTS}")
        if not isinstance(self.stacked, bool):
            raise ValueError(f"stacked must be True or False, not {self.stacked!r}")
        if self.job is not None:
            _tags.check_job(self.job)
        check_int("min_keep", self.min_keep)
        if not isinstance(self.failed_after, timedelta) or self.failed_after < timedelta(0):
            raise ValueError(
                f"failed_after must be a timedelta of zero or more, not {self.failed_after!r}"
            )
        check_int("quota", self.quota)
        object.__setattr__(self, "_zone", zone_of(self.tz))

    @property
    def rules(self) -> str:
        """How much it keeps, as the command line has it, such as `daily=4, weekly=4`."""
        said = [f"{rule}={count}" for rule, count in self._counts.items() if count]
        if self.within is not None:
            said.insert(0, f"within={self.within / timedelta(hours=1):g}h")
        if self.min_keep > 1:
            said.append(f"min_keep={self.min_keep}")
        return ", ".join(said)

    def __repr__(self) -> str:
        given = [
            f"{one.name}={value!r}"
            for one in fields(type(self))
            if one.init and (value := getattr(self, one.name)) != one.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    # --- What to keep --------------------------------------------------------------------------

    def decide(self, backups: Iterable[Backup], now: datetime) -> tuple[Decision, ...]:
        """A decision for each of the backups, which are all those of one server, newest first.

        Only completed backups count for a rule. The newest completed one is always kept. A backup
        that was created over ten minutes after `now` is kept, and does not count.

        Raises `ValueError` for backups of several servers, for an id that comes twice, and for a
        `now` without a time zone.
        """
        if now.tzinfo is None:
            raise ValueError(f"now must have a time zone, unlike {now!r}")
        held = sorted(backups, key=_order, reverse=True)
        _check_one_server(held)
        today = local(now, self._zone).date()
        reasons = {backup.id: self._left_alone(backup, today) for backup in held}
        own = [backup for backup in held if reasons[backup.id] is None]
        good = [one for one in own if is_good(one) and not _is_future(one, now)]
        rules = self._kept_by_rules(good)

        def decision(backup: Backup) -> Decision:
            by = tuple(rules.get(backup.id, ()))
            reason = reasons[backup.id] or self._reason(backup, now, good, is_kept=bool(by))
            return Decision(backup, reason, by)

        return tuple(map(decision, held))

    def _left_alone(self, backup: Backup, today: date) -> Reason | None:
        """Why the policy is not for this backup; None if it is."""
        if not backup.is_manual:
            return Reason.NOT_MANUAL
        if _tags.is_pinned(backup.description, today):
            return Reason.PINNED
        if not _tags.has_readable_label(backup.description):
            return Reason.UNREADABLE_LABEL
        if not _tags.same(_tags.job_of(backup.description), self.job):
            return Reason.OTHER_JOB
        return None

    def _reason(
        self, backup: Backup, now: datetime, good: Sequence[Backup], *, is_kept: bool
    ) -> Reason:
        """The reason for one of the job's own backups; `good` are those that count for rules."""
        if ended_badly(backup):
            if not good or _order(good[0]) < _order(backup):
                return Reason.FAILED_NEWEST
            is_fresh = now - as_utc(backup.created_at) <= self.failed_after
            return Reason.FAILED_LATELY if is_fresh else Reason.FAILED
        if not backup.is_completed:
            return Reason.RUNNING if is_running(backup) else Reason.UNKNOWN_STATUS
        if _is_future(backup, now):
            return Reason.FROM_THE_FUTURE
        if is_kept:
            return Reason.RULE
        return Reason.MIN_KEEP if backup in good[: self.min_keep] else Reason.NO_RULE

    def _kept_by_rules(self, good: Sequence[Backup]) -> dict[int, list[str]]:
        """The rules that keep each of these backups, which are given newest first."""
        kept: dict[int, list[str]] = {}
        if self.within is not None:
            for backup in good:
                if as_utc(good[0].created_at) - as_utc(backup.created_at) < self.within:
                    kept[backup.id] = [f"within {self.within}"]
        for rule, count in self._counts.items():
            firsts = self._newest_of_each(rule, good)
            if self.stacked:
                firsts = [(backup, name) for backup, name in firsts if backup.id not in kept]
            for backup, name in firsts[:count]:
                kept.setdefault(backup.id, []).append(name)
        return kept

    def _newest_of_each(self, rule: str, good: Sequence[Backup]) -> list[tuple[Backup, str]]:
        """The newest backup of each of the rule's periods, with the name of rule and period."""
        if rule == "last":
            return [(backup, rule) for backup in good]
        firsts: dict[str, Backup] = {}
        for backup in good:
            period = PERIODS[rule](local(backup.created_at, self._zone))
            firsts.setdefault(period, backup)
        return [(backup, f"{rule} {period}") for period, backup in firsts.items()]

    # --- How many that may be ------------------------------------------------------------------

    @property
    def worst_case(self) -> int | None:
        """The most backups of its job that the policy keeps; None with `within`, which has no most.

        No history of backups makes it more, and there is one that makes it as many.
        """
        return None if self.within is not None else self._most_kept(0)

    def fit(self, decisions: Iterable[Decision]) -> Fit:
        """Whether the policy leaves a place for the next backup, by its decisions for a server."""
        decided = list(decisions)
        by_within = sum(one.rules[:1] == (f"within {self.within}",) for one in decided)
        pinned = sum(one.reason is Reason.PINNED for one in decided)
        others = sum(one.reason in _HELD_BY_OTHERS for one in decided)
        fit = Fit(self, self._most_kept(by_within), pinned, others, None)
        places = self.quota - pinned - others - 1
        return fit if fit.fits or places < 1 else evolve(fit, smaller=self._smaller(places))

    @property
    def _counts(self) -> dict[str, int]:
        """The rules that keep a number of backups, in their order."""
        return {rule: count for rule in _COUNTS if (count := getattr(self, rule))}

    def _most_kept(self, by_within: int) -> int:
        return most_kept(self._counts, self.min_keep, stacked=self.stacked, by_within=by_within)

    def _smaller(self, places: int) -> "Retention":
        counts, min_keep = reduced(self._counts, self.min_keep, stacked=self.stacked, places=places)
        changes: dict[str, Any] = dict.fromkeys(_COUNTS, 0) | counts
        return evolve(self, within=None, min_keep=min_keep, **changes)


def _order(backup: Backup) -> tuple[datetime, int]:
    return as_utc(backup.created_at), backup.id


def _is_future(backup: Backup, now: datetime) -> bool:
    return as_utc(backup.created_at) - now > _SKEW


def _check_one_server(backups: Sequence[Backup]) -> None:
    servers = sorted({backup.server.id for backup in backups})
    if len(servers) > 1:
        raise ValueError(f"the backups of one server at a time, not those of {servers}")
    ids = Counter(backup.id for backup in backups)
    if twice := sorted(number for number, times in ids.items() if times > 1):
        raise ValueError(f"each backup once, unlike {twice}")
