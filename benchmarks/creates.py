"""What becomes of creates in all kinds of trouble: none is made twice, and none is lost.

The client runs on virtual time against the fake server, one create for each server. Three creates
in ten fail before they are carried out, and three after. A minute after the last one has ended,
those whose outcome is unknown are settled.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable

from attrs import define, frozen

from benchmarks._table import Verdict
from benchmarks.waiting import on_virtual_time
from vpsbackups_async import (
    Backup,
    BackupsClient,
    CreateOutcomeUnknownError,
    Outcome,
    RetryPolicy,
    fan_out,
)
from vpsbackups_async._tags import marker_of, text_of
from vpsbackups_async.testing import Drop, FakeVPS, Fault, SeenRequest, ServerFault

CREATES = 1_000
NAME = "Nightly"
RIVAL = "By hand"
SHARE = 0.3
"""The share of creates that fail before they are carried out, and that fail after."""


def lost() -> tuple[Fault, ...]:
    """Connections that are cut before and after the create is carried out."""
    after = SHARE / (1 - SHARE)  # of those that did not fail before
    return (
        Drop(method="POST", chance=SHARE),
        Drop("after", method="POST", chance=after),
    )


def late(up_to: float, *statuses: int) -> tuple[Fault, ...]:
    """A gateway that gives up on creates that the origin carries out up to so much later (s)."""
    source = random.Random(5)

    def seconds(_: SeenRequest) -> float:
        return source.uniform(0, up_to)

    share = 2 * SHARE / len(statuses)
    return tuple(
        ServerFault(status, html=True, method="POST", when="later", late=seconds, chance=share)
        for status in statuses
    )


@frozen
class Trouble:
    """What goes wrong: faults, a list that lags, a `Date` that is ahead (up to so many seconds),
    ids out of order, and somebody else who makes backups of the same servers.
    """

    name: str
    faults: Callable[[], tuple[Fault, ...]] = lost
    lag: float = 0.0
    ahead: float = 0.0
    blocks: bool = False
    rival: str | None = None
    marker: bool = False
    retry: RetryPolicy = RetryPolicy(budget=None)


AGAIN = RetryPolicy(budget=None, create_again_after=60)
TROUBLES = (
    Trouble("answers are lost"),
    Trouble("... and the list lags up to 10 s", lag=10),
    Trouble("... and `Date` is up to 6 s ahead", ahead=6),
    Trouble("... and ids come in blocks", blocks=True),
    Trouble("502 and 504 up to 20 s too early", lambda: late(20, 502, 504)),
    Trouble("a second actor, other descriptions", rival=RIVAL),
    Trouble("a second actor, same description, `marker=True`", rival=NAME, marker=True),
    Trouble(
        "all at once",
        lambda: (*lost(), *late(20, 502, 504)),
        lag=10,
        ahead=6,
        blocks=True,
        rival=RIVAL,
    ),
    Trouble(
        "all at once, `marker=True`",
        lambda: (*lost(), *late(20, 502, 504)),
        lag=10,
        ahead=6,
        blocks=True,
        rival=NAME,
        marker=True,
    ),
)
SENT_AGAIN = Trouble(
    "lost answers, 502 and 503, `create_again_after=60`",
    lambda: (
        Drop(method="POST", chance=0.15),
        Drop("after", method="POST", chance=0.15),
        *late(20, 502),
        ServerFault(503, method="POST", chance=0.15),
    ),
    lag=10,
    ahead=6,
    blocks=True,
    retry=AGAIN,
)


@define
class Tally:
    """How the creates ended.

    `given` were returned by the call, `settled` by `settle` a minute later; `named` are among the
    candidates of its error. `unmade` ended as unknown, and no backup had been made. `unaccounted`
    are made and not in any of these, `wrong` are somebody else's that were given, and `doubled` are
    servers with more than one backup of ours.
    """

    given: int = 0
    settled: int = 0
    named: int = 0
    unmade: int = 0
    unaccounted: int = 0
    wrong: int = 0
    doubled: int = 0

    @property
    def right(self) -> bool:
        """Whether no backup was made twice, mistaken or lost."""
        return not (self.unaccounted or self.wrong or self.doubled)

    def __str__(self) -> str:
        return (
            f"{self.given:5} given, {self.settled:4} settled, {self.named:4} named, "
            f"{self.unmade:4} not made and unknown; {self.doubled} doubled, "
            f"{self.unaccounted} unaccounted for, {self.wrong} wrong"
        )


def play(trouble: Trouble, creates: int, *, seed: int = 1) -> Tally:
    """Create one backup on each of so many servers; how that ended."""
    source = random.Random(seed)
    fake = FakeVPS(
        servers=creates,
        backup_seconds=1e6,
        faults=trouble.faults(),
        visible_after=lambda _: source.uniform(0, trouble.lag),
        new_ids="blocks" if trouble.blocks else "up",
        seed=seed,
    )

    def meddle(seen: SeenRequest) -> None:
        fake.date_ahead = source.uniform(0, trouble.ahead)
        if trouble.rival is not None and seen.method == "POST":
            server_id = seen.json["server_id"]
            asyncio.get_running_loop().call_later(
                source.uniform(0, 10), _add, fake, server_id, trouble.rival
            )

    fake.on_request = meddle

    async def work() -> Tally:
        async with (
            fake,
            BackupsClient(fake.token, base_url=fake.url, retry=trouble.retry) as client,
        ):

            async def create(server_id: int) -> Backup:
                return await client.create(server_id, description=NAME, marker=trouble.marker)

            outcomes = [one async for one in fan_out(create, range(1, creates + 1))]
            await asyncio.sleep(60)
            ours = _ours(fake, trouble)
            tally = Tally()
            for outcome in outcomes:
                await _count(tally, client, ours[outcome.key], outcome)
            return tally

    return on_virtual_time(work)


def _add(fake: FakeVPS, server_id: int, description: str) -> None:
    fake.add_backup(server_id, description=description, status="in_progress")


def _ours(fake: FakeVPS, trouble: Trouble) -> dict[int, set[int]]:
    """The ids of the backups that our creates made on each server."""
    ours: dict[int, set[int]] = defaultdict(set)
    for held in fake.backups:
        marked = marker_of(held["description"]) is not None
        if text_of(held["description"]) == NAME and marked == trouble.marker:
            ours[held["server"]["id"]].add(held["id"])
    return ours


async def _count(
    tally: Tally, client: BackupsClient, ours: set[int], outcome: Outcome[int, Backup]
) -> None:
    """Count how one create ended; `ours` are the backups that it made."""
    tally.doubled += len(ours) > 1
    given, error = outcome.value, outcome.error
    if given is not None:
        tally.given += given.id in ours
    elif isinstance(error, CreateOutcomeUnknownError):
        try:
            given = await client.settle(error)
            tally.settled += given.id in ours
        except CreateOutcomeUnknownError as again:
            candidates = {backup.id for backup in again.candidates}
            tally.unmade += not ours
            tally.named += bool(ours & candidates)
            tally.unaccounted += bool(ours) and not ours & candidates
    else:
        tally.unmade += not ours
        tally.unaccounted += bool(ours)
    tally.wrong += given is not None and given.id not in ours


def run(verdict: Verdict) -> None:
    """Make creates in each kind of trouble, and record how many ended well."""
    creates = verdict.size(CREATES, 50)
    for trouble in TROUBLES:
        tally = play(trouble, creates)
        print(f"{trouble.name:50} {tally}", flush=True)
        verdict.check(trouble.name, right=tally.right)
    tally = play(SENT_AGAIN, creates)
    print(f"{SENT_AGAIN.name:50} {tally}", flush=True)
    verdict.check(SENT_AGAIN.name, right=tally.right)
    made = tally.given / creates
    verdict.record(
        f"creates made: {SENT_AGAIN.name}",
        measured=f"{made:.1%}",
        target=">= 97 %",
        met=made >= 0.97,
    )
