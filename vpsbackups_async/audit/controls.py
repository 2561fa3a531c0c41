"""Controls over a coverage, each passed or failed with evidence, as in AWS Backup Audit Manager."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from attrs import field, frozen

from vpsbackups_async._checks import check_duration, check_int
from vpsbackups_async.audit.coverage import Coverage, ServerCoverage, State, iso
from vpsbackups_async.models import Backup, as_utc

__all__ = ["Control", "ControlResult", "Evidence", "Kept", "NewestYounger", "Reach", "check"]


_UNITS: Final = (
    ("days", timedelta(days=2)),
    ("hours", timedelta(hours=1)),
    ("minutes", timedelta(0)),
)
"""The units of a span, each from the least duration on that is told in it."""


class Control(Protocol):
    """A requirement that each server of a coverage meets or not."""

    @property
    def text(self) -> str:
        """What is required, in one line."""
        ...

    def judge(self, good: list[Backup], at: datetime) -> tuple[bool, str]:
        """Whether a server with these good backups, newest first, passes; and what shows it."""
        ...


@frozen
class NewestYounger:
    """The newest good backup is at most `limit` old.

    Raises `ValueError` unless that is a timedelta of more than zero.
    """

    limit: timedelta = field()

    def __attrs_post_init__(self) -> None:
        check_duration("limit", self.limit)

    @property
    def text(self) -> str:
        """What is required, in one line."""
        return f"the newest good backup is at most {span(self.limit)} old"

    def judge(self, good: list[Backup], at: datetime) -> tuple[bool, str]:
        """Whether the newest of these is young enough; and its age."""
        if not good:
            return False, "no good backup"
        old = _age(good[0], at)
        return old <= self.limit, f"{_named(good[0])}, {span(old)} old"


@frozen
class Kept:
    """At least `count` good backups are kept.

    Raises `ValueError` unless that is a positive int.
    """

    count: int = field()

    def __attrs_post_init__(self) -> None:
        check_int("count", self.count)

    @property
    def text(self) -> str:
        """What is required, in one line."""
        return f"at least {self.count} good backups are kept"

    def judge(self, good: list[Backup], at: datetime) -> tuple[bool, str]:  # noqa: ARG002  # a count has no age
        """Whether these are enough; and how many they are."""
        return len(good) >= self.count, f"{len(good)} good backups"


@frozen
class Reach:
    """The good backups reach at least `back` back in time.

    Raises `ValueError` unless that is a timedelta of more than zero.
    """

    back: timedelta = field()

    def __attrs_post_init__(self) -> None:
        check_duration("back", self.back)

    @property
    def text(self) -> str:
        """What is required, in one line."""
        return f"the good backups reach at least {span(self.back)} back"

    def judge(self, good: list[Backup], at: datetime) -> tuple[bool, str]:
        """Whether the oldest of these is old enough; and its age."""
        if not good:
            return False, "no good backup"
        old = _age(good[-1], at)
        return old >= self.back, f"{_named(good[-1])}, {span(old)} old"


@frozen
class Evidence:
    """Whether one server passes a control, and what shows it."""

    server_id: int
    name: str
    passed: bool
    found: str


@frozen
class ControlResult:
    """How one control ended over all servers; `evidence` has one entry for each, failures first."""

    control: str
    passed: bool
    evidence: tuple[Evidence, ...]

    @property
    def failed(self) -> tuple[Evidence, ...]:
        """The evidence of the servers that fail."""
        return tuple(one for one in self.evidence if not one.passed)

    def as_dict(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return {
            "control": self.control,
            "passed": self.passed,
            "failed": len(self.failed),
            "evidence": [
                {
                    "server_id": one.server_id,
                    "name": one.name,
                    "passed": one.passed,
                    "found": one.found,
                }
                for one in self.evidence
            ],
        }


def check(coverage: Coverage, controls: Iterable[Control]) -> tuple[ControlResult, ...]:
    """A result for each control, over all servers of the coverage.

    A control passes if every server does, and there is one. A server that could not be read fails
    each control; backups from the future count for none.
    """
    good = {one.server_id: one.good() for one in coverage.servers}
    return tuple(_result(control, coverage, good) for control in controls)


def _result(control: Control, coverage: Coverage, good: dict[int, list[Backup]]) -> ControlResult:
    def judged(one: ServerCoverage) -> Evidence:
        if one.state is State.UNKNOWN:
            return Evidence(one.server_id, one.name, passed=False, found=f"unknown: {one.problem}")
        passed, found = control.judge(good[one.server_id], coverage.at)
        return Evidence(one.server_id, one.name, passed, found)

    evidence = sorted(map(judged, coverage.servers), key=lambda one: one.passed)
    passed = bool(evidence) and all(one.passed for one in evidence)
    return ControlResult(control.text, passed, tuple(evidence))


def span(duration: timedelta) -> str:
    """A duration in days, hours or minutes, whichever reads best, rounded to a tenth."""
    unit = next(unit for unit, least in _UNITS if duration >= least)
    number = f"{duration / timedelta(**{unit: 1}):.1f}".removesuffix(".0")
    return f"{number} {unit[:-1] if number == '1' else unit}"


def _age(backup: Backup, at: datetime) -> timedelta:
    return max(timedelta(0), at - as_utc(backup.created_at))


def _named(backup: Backup) -> str:
    return f"backup {backup.id} of {iso(backup.created_at)}"
