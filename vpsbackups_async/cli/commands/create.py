"""Start a backup of each server; with --wait, wait for the end.

Usage: vpsbackups create [OPTIONS] SERVER...

  vpsbackups create 12345 12346 --description Nightly --wait
"""

import re
import shlex
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

from attrs import frozen
from cyclopts import Parameter

from vpsbackups_async._tags import with_labels
from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.ids import server_ids, source_name
from vpsbackups_async.cli.not_made import NotMade, NotMadeTo
from vpsbackups_async.cli.numbers import WHOLE
from vpsbackups_async.cli.options import (
    A_TIME,
    DEFAULTS,
    All,
    Common,
    Flag,
    Timeout,
    check_all,
    duration_of,
    timeout_seconds,
)
from vpsbackups_async.cli.outcomes import AsOutcomes, Taken, all_taken
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.selection import PAGE, moment_of
from vpsbackups_async.cli.session import Session
from vpsbackups_async.cli.tracker import Tracker
from vpsbackups_async.fleet import Fleet
from vpsbackups_async.models import ALL_SERVERS, Backup, Outcome, Progress

__all__ = ["run"]

_CONCURRENCY: Final = 64
_MARGIN: Final = timedelta(hours=1)
"""How far the server's clock, or that of who runs a printed command, may be from ours."""
_DATE: Final = re.compile(r"\d{4}-?\d\d")


def run(
    *servers: Annotated[str, Parameter(metavar="SERVER", help="ids of servers")],
    servers_from: Annotated[
        str | None,
        Parameter(
            metavar="FILE",
            allow_leading_hyphen=True,
            help="the servers named there, too; - is stdin",
        ),
    ] = None,
    all_servers: All = False,
    description: Annotated[
        str | None, Parameter(("--description", "-d"), metavar="TEXT", help="what it is made for")
    ] = None,
    keep: Annotated[
        str | None, Parameter(metavar="DAY", help="never prune it through this day, or forever")
    ] = None,
    job: Annotated[
        str | None,
        Parameter(metavar="NAME", help="its label, [job:NAME], by which rotate and prune go"),
    ] = None,
    unless_newer_than: Annotated[
        str | None,
        Parameter(metavar="TIME", help=f"if none so described is newer {A_TIME} or date"),
    ] = None,
    wait: Annotated[Flag, Parameter(("--wait", "-w"), help="until it is completed")] = False,
    concurrency: Annotated[
        int | None, WHOLE, Parameter(metavar="N", help="creates at a time; 64 if not given")
    ] = None,
    max_running: Annotated[
        int | None,
        WHOLE,
        Parameter(metavar="N", help="backups at a time with --wait; any if not given"),
    ] = None,
    timeout: Timeout = None,
    as_outcomes: AsOutcomes = False,
    not_made_to: NotMadeTo = None,
    durable: Annotated[
        Flag, Parameter(help="wait; the same within 12h goes on after a crash")
    ] = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    if durable:
        _check_durable(
            ("--ndjson", as_outcomes),
            ("--not-made-to", not_made_to is not None),
            ("--max-running", max_running is not None),
            ("--concurrency", concurrency is not None),
            ("--timeout", timeout is not None),
        )
    with nullcontext() if not_made_to is None else NotMade(not_made_to, servers_from) as not_made:
        ids = server_ids(servers, servers_from, may_be_none=True)
        if not_made is not None and not all_servers and (ids or servers_from is not None):
            not_made.servers = ids
        check_all(all_servers=all_servers, named=bool(ids) or servers_from is not None)
        if not (all_servers or ids or servers_from is not None):
            raise UsageError("no server is named: give ids, --servers-from FILE, or --all")
        described = _labelled(description, keep, job)
        wanted = _Wanted.of(
            described, unless_newer_than, timeout, concurrency, max_running, wait=wait
        )
        if servers_from is not None and not ids:
            return _nothing(common, servers_from)
        if durable:
            return _durably(common, ids, wanted)
        if all_servers and not_made is not None:
            not_made.servers = ids = _all_ids(common)
        tracker = Tracker(
            common,
            waits=wait,
            servers=ids or None,
            as_outcomes=as_outcomes,
            not_made=not_made,
            again=wanted.again,
        )
        with tracker:
            return tracker.session.do(_create(tracker, ids, wanted))


def _check_durable(*options: tuple[str, bool]) -> None:
    """Refuse those options that were given: workers share what is under way, and wait for it."""
    for option, is_given in options:
        if is_given:
            raise UsageError(f"--durable has no {option}")


async def _create(tracker: Tracker, ids: list[int], wanted: "_Wanted") -> Exit:
    """Create a backup of each of these servers, of all if there are none; the exit code."""
    session = tracker.session
    source = (
        Taken(ids, tracker.begin)
        if ids
        else all_taken(session.client.servers(page_size=PAGE), tracker.begin)
    )
    fleet = session.client.fleet(source, concurrency=wanted.concurrency)
    async with session.display("Backing up" if wanted.wait else "Starting") as display:
        await tracker.follow(wanted.of_each(fleet, display.update))
    return tracker.end()


@frozen
class _Wanted:
    """Which backup each server is to have, as the options give it."""

    description: str | None
    within: timedelta | datetime | None
    began: datetime
    wait: bool
    timeout: float
    concurrency: int
    max_running: int | None

    @classmethod
    def of(
        cls,
        description: str | None,
        unless_newer_than: str | None,
        timeout: str | None,
        concurrency: int | None,
        max_running: int | None,
        *,
        wait: bool,
    ) -> "_Wanted":
        """What the options ask for; raises `UsageError`."""
        if concurrency is not None and concurrency < 1:
            raise UsageError("--concurrency is one or more")
        if max_running is not None and max_running < 1:
            raise UsageError("--max-running is one or more")
        for option, given in (("--max-running", max_running), ("--timeout", timeout)):
            if given is not None and not wait:
                raise UsageError(f"{option} is of no use without --wait")
        now = datetime.now(UTC)
        within = None if unless_newer_than is None else _within(unless_newer_than, now)
        at_once = _CONCURRENCY if concurrency is None else concurrency
        return cls(description, within, now, wait, timeout_seconds(timeout), at_once, max_running)

    @property
    def again(self) -> str:
        """The command that makes a backup where this one has made none, whenever it is run."""
        bound = self.began - _MARGIN
        if isinstance(self.within, timedelta):
            bound = min(bound, self.began - self.within)
        elif self.within is not None:
            bound = min(bound, self.within)
        words = ["create", "--unless-newer-than", f"{bound.astimezone(UTC):%Y-%m-%dT%H:%MZ}"]
        if self.description is not None:  # one that begins with a hyphen looks like an option
            named = self.description.startswith("-")
            words += (
                [f"--description={self.description}"]
                if named
                else ["--description", self.description]
            )
        return shlex.join(words)

    def of_each(
        self, fleet: Fleet, report: Callable[[Progress], object]
    ) -> AsyncGenerator[Outcome[int, Backup]]:
        """One outcome for each server."""
        if self.within is None:
            return fleet.create(
                description=self.description,
                wait=self.wait,
                timeout=self.timeout,
                max_running=self.max_running,
                on_progress=report,
            )
        return fleet.ensure(
            within=self.within,
            description=self.description,
            wait=self.wait,
            timeout=self.timeout,
            max_running=self.max_running,
            on_progress=report,
        )


def _labelled(description: str | None, keep: str | None, job: str | None) -> str | None:
    """The description with these labels; raises `UsageError`."""
    if keep is None and job is None:
        return description
    day: date | bool | None = None
    if keep is not None:
        try:
            day = keep == "forever" or date.fromisoformat(keep)
        except ValueError:
            raise UsageError(f"--keep {keep!r} is no day: give 2027-01-31, or forever") from None
    try:
        return with_labels(description, keep=day, job=job)
    except ValueError as error:
        raise UsageError(f"these labels cannot be (--keep, --job): {error}") from None


def _within(text: str, now: datetime) -> timedelta | datetime:
    """The duration or the moment of `--unless-newer-than`; raises `UsageError`."""
    option = "--unless-newer-than"
    moment = moment_of(text, option) if _DATE.match(text) else None
    if moment is None:
        return duration_of(option, text)
    if moment >= now:
        raise UsageError(f"{option} {text!r} is in the future: give a time in the past (UTC)")
    return moment


def _nothing(common: Common, source: str) -> int:
    """Say that the source names no server, as a run without failures leaves `--not-made-to`."""
    screen = Screen(quiet=common.quiet)
    screen.summary(f"{source_name(source)} names no server: nothing was started")
    return Exit.FINE


def _durably(common: Common, ids: list[int], wanted: _Wanted) -> int:
    """Create them as a run in a database; all servers if no ids are given."""
    if isinstance(wanted.within, datetime):
        raise UsageError("--durable takes a duration for --unless-newer-than, no date")
    from vpsbackups_async.cli.durably import create  # noqa: PLC0415  # it needs an extra

    return create(common, ids or ALL_SERVERS, wanted.description, wanted.within)


def _all_ids(common: Common) -> list[int]:
    """The ids of all servers, where they must be known before the first backup."""
    with Session(common) as session:

        async def work() -> list[int]:
            servers = session.client.servers(page_size=PAGE)
            async with session.display("Reading servers"):
                return [server_id async for server_id in all_taken(servers, lambda _: None)]

        return session.do(work())
