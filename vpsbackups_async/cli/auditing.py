"""What the commands that audit have in common: options, the read, the exit code, the rows."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Final

from attrs import frozen
from cyclopts import Parameter

from vpsbackups_async.audit import (
    Control,
    ControlResult,
    Coverage,
    Kept,
    NewestYounger,
    Reach,
    ServerCoverage,
    audit,
    check,
)
from vpsbackups_async.audit.coverage import QUOTA, iso
from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.ids import server_ids
from vpsbackups_async.cli.numbers import WHOLE
from vpsbackups_async.cli.options import A_TIME, check_all, duration_of
from vpsbackups_async.cli.rows import Column, Layout
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.text import safe, short
from vpsbackups_async.models import ALL_SERVERS

__all__ = [
    "COVERAGE",
    "Audited",
    "Keeps",
    "Reaches",
    "Servers",
    "ServersFrom",
    "Slack",
    "Wanted",
]

Servers = Annotated[str, Parameter(metavar="SERVER", help="ids of servers; all if none is given")]
ServersFrom = Annotated[
    str | None,
    Parameter(
        metavar="FILE", allow_leading_hyphen=True, help="the servers named there, too; - is stdin"
    ),
]
Slack = Annotated[
    str | None, Parameter(metavar="TIME", help=f"later if none failed {A_TIME}; 0h if not given")
]
Keeps = Annotated[
    int | None,
    WHOLE,
    Parameter("--kept", metavar="N", help="require that many good ones on each server"),
]
Reaches = Annotated[
    str | None,
    Parameter("--reach", metavar="TIME", help=f"require good ones that far back {A_TIME}"),
]


@frozen
class Audited:
    """A coverage, and how it fares against the controls that were asked for."""

    coverage: Coverage
    results: tuple[ControlResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every server is ok, and passes every control."""
        return self.coverage.ok and all(one.passed for one in self.results)

    @property
    def code(self) -> Exit:
        """The exit code."""
        return Exit.FINE if self.ok else Exit.SOME_FAILED

    def summary(self) -> str:
        """The counts of states, and the controls that failed, in one line."""
        parts = [f"{count:,} {state}" for state, count in self.coverage.counts.items() if count]
        failed = [_broken(one) for one in self.results if not one.passed]
        return "; ".join([", ".join(parts), *failed])


def _broken(result: ControlResult) -> str:
    number = len(result.failed)
    return f"{number:,} {'breaks' if number == 1 else 'break'} the rule that {result.control}"


@frozen
class Wanted:
    """What is to be audited, and how, as the options give it."""

    servers: list[int]
    rpo: timedelta
    slack: timedelta
    controls: tuple[Control, ...]

    @classmethod
    def of(
        cls,
        servers: Sequence[str],
        servers_from: str | None,
        rpo: str,
        slack: str | None,
        kept: int | None,
        reach: str | None,
        *,
        all_servers: bool,
    ) -> "Wanted":
        """What the options ask for; raises `UsageError`."""
        limit = duration_of("--rpo", rpo)
        controls: list[Control] = [NewestYounger(limit)]
        if kept is not None:
            if kept < 1:
                raise UsageError("--kept is one or more")
            controls.append(Kept(kept))
        if reach is not None:
            controls.append(Reach(duration_of("--reach", reach)))
        none = timedelta(0)
        late = none if slack is None else duration_of("--slack", slack, least=none)
        controls[0] = NewestYounger(limit + late)
        check_all(all_servers=all_servers, named=bool(servers) or servers_from is not None)
        ids = server_ids(servers, servers_from)
        return cls(ids, limit, late, tuple(controls))

    def read(self, session: Session) -> Audited:
        """The audit of the servers, of all if none is named."""

        async def work() -> Coverage:
            async with session.display("Reading"):
                return await audit(
                    session.client, self.servers or ALL_SERVERS, rpo=self.rpo, slack=self.slack
                )

        coverage = session.do(work())
        return Audited(coverage, check(coverage, self.controls))


# --- Rows ----------------------------------------------------------------------------------------


def _state_style(one: ServerCoverage) -> str:
    return {"ok": "green", "running": "yellow", "unknown": "yellow"}.get(one.state, "red")


def _covered_age(one: ServerCoverage) -> str:
    return "-" if one.age is None else short(one.age)


def _slots(one: ServerCoverage) -> str:
    return "-" if one.slots_used is None else f"{one.slots_used}/{QUOTA}"


def _remark(one: ServerCoverage) -> str:
    """What else there is to say: why it is unknown, what failed, is stuck, or is pinned."""
    remarks = [
        safe(one.problem),
        one.failed_since and f"{one.failed_since} failed since",
        one.stuck and f"stuck: {', '.join(map(str, one.stuck))}",
        one.from_the_future and f"from the future: {', '.join(map(str, one.from_the_future))}",
        one.pinned and f"{one.pinned} pinned",
    ]
    return "; ".join(str(remark) for remark in remarks if remark)


def _plain_coverage(one: ServerCoverage) -> str:
    return (
        f"{one.state:<8} {one.server_id:<10} {_covered_age(one):>5} {_slots(one):>6} "
        f"{iso(one.last_success) or '-':<20}  {safe(one.name):<16}  {_remark(one)}"
    ).rstrip()


COVERAGE: Final[Layout[ServerCoverage]] = Layout(
    (
        Column("STATE", lambda one: str(one.state), least=7, style=_state_style),
        Column("ID", lambda one: str(one.server_id), right=True, whole=True),
        Column("NAME", lambda one: safe(one.name), most=40, shrinks_to=12),
        Column("AGE", _covered_age, least=4, right=True),
        Column("SLOTS", _slots, least=5, right=True),
        Column("REMARK", _remark, least=8, rest=True),
    ),
    _plain_coverage,
    {},
)
