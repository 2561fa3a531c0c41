"""The servers of runs as workers see them, in the database; each function is one transaction.

What workers ask is tried again while the database is away.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

import sqlalchemy as sa
from attrs import define

from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.schema import facts, insert_into, items, pace, runs
from vpsbackups_async.durable.values import (
    UNDER_WAY,
    ItemState,
    RunOutcome,
    Task,
    task_from_json,
)

__all__ = ["Item", "Items", "Run", "SupersededError", "Turn"]

T = TypeVar("T")

_UNDER_WAY: Final = [str(state) for state in UNDER_WAY]


class SupersededError(Exception):
    """Another execution has taken the server over, so that this one must not act any more."""


class Run(NamedTuple):
    """A run as it was submitted; its `nonce` is in the marker of each of its backups."""

    name: str
    nonce: str
    task: Task


@define(eq=False)
class Item:
    """One server of a run, as it is being worked on by the execution `owner`.

    Times are in seconds by the clock of the database. `posts` counts the creates of this retry that
    may have been sent; the first at `sent_at` at the earliest, the last not after `not_after`.
    """

    run: Run
    server_id: int
    retry: int
    owner: str
    posts: int
    sent_at: float | None
    not_after: float | None
    may_repeat: bool
    unknown_since: int
    backup_id: int | None

    @property
    def marker(self) -> str:
        """The marker of a create of this retry."""
        return self._marker(self.retry)

    @property
    def markers(self) -> tuple[str, ...]:
        """The markers of all creates that may have made the backup that is asked for."""
        return tuple(self._marker(retry) for retry in range(self.unknown_since, self.retry + 1))

    def _marker(self, retry: int) -> str:
        return f"{self.run.nonce}.{self.server_id}.{retry}"


class Turn(NamedTuple):
    """When a create may be sent: `starts_at` by `time.monotonic()`, and for how many seconds.

    `ends_in` counts from the question. `is_paced` is whether the turns of others follow closely, so
    that it must not be late.
    """

    starts_at: float
    ends_in: float
    is_paced: bool


class Items:
    """The servers of all runs of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs: dict[str, Run] = {}

    async def claim(self, entry: Entry) -> Item | None:
        """The item, which no other execution may write from now on; None if it has ended."""
        owner = os.urandom(8).hex()
        update = (
            sa.update(items)
            .where(*_is(entry), items.c.state.in_(_UNDER_WAY))
            .values(owner=owner, state=str(ItemState.RUNNING))
            .returning(items)
        )
        row = await self._run(lambda connection: connection.execute(update).first())
        if row is None:
            return None
        return Item(
            await self._run_of(entry.run),
            row.server,
            row.retry,
            owner,
            row.posts,
            row.sent_at,
            row.not_after,
            row.may_repeat,
            row.unknown_since,
            row.backup,
        )

    async def _run_of(self, nonce: str) -> Run:
        if nonce not in self._runs:
            query = sa.select(runs).where(runs.c.nonce == nonce)
            row = await self._run(lambda connection: connection.execute(query).one())
            self._runs[nonce] = Run(row.name, nonce, task_from_json(row.task))
        return self._runs[nonce]

    async def intend(self, item: Item, start_within: float, posts: int) -> Turn:
        """Note that a create is about to be sent, the one of this number; when it may be.

        Raises `SupersededError`, as all that follow here.
        """
        now = self._database.now
        begins = sa.case((pace.c.next_at > now, pace.c.next_at), else_=now)
        reserve = (
            sa.update(pace)
            .values(next_at=begins + sa.func.coalesce(1.0 / pace.c.rate, 0.0))
            .returning(pace.c.next_at, pace.c.rate, now)
        )

        def work(connection: sa.Connection) -> Turn:
            after, rate, at = connection.execute(reserve).one()
            seen = time.monotonic()
            turn = max(after - (0.0 if rate is None else 1.0 / rate), at)
            update = (
                sa.update(items)
                .where(*self._owned(item))
                .values(
                    posts=posts,
                    sent_at=sa.func.coalesce(items.c.sent_at, at),
                    not_after=turn + start_within,
                )
                .returning(items.c.posts, items.c.sent_at, items.c.not_after)
            )
            row = connection.execute(update).first()
            if row is None:
                raise SupersededError
            item.posts, item.sent_at, item.not_after = row
            return Turn(seen + turn - at, turn - at + start_within, rate is not None)

        return await self._run(work)

    async def note_started(self, item: Item, backup_id: int) -> None:
        """Note the backup that was started, or found."""
        await self._write(item, backup=backup_id)
        item.backup_id = backup_id

    async def note_not_made(self, item: Item, posts: int) -> None:
        """Note that the creates beyond so many were refused, or never sent."""
        await self._write(item, posts=posts)
        item.posts = posts

    async def note_unanswered(self, item: Item) -> None:
        """Note that the server may still work on the create, so that it is never sent again."""
        await self._write(item, may_repeat=False)
        item.may_repeat = False

    async def end(self, item: Item, outcome: RunOutcome) -> None:
        """Note how the item ended."""
        text = json.dumps(outcome.to_dict() | {"ended_at": datetime.now(UTC).isoformat()})
        await self._write(
            item,
            state=str(outcome.state),
            outcome=text,
            error=outcome.error,
        )

    async def _write(self, item: Item, **values: object) -> None:
        update = sa.update(items).where(*self._owned(item)).values(**values)
        if await self._run(lambda connection: connection.execute(update).rowcount) == 0:
            raise SupersededError

    @staticmethod
    def _owned(item: Item) -> tuple[sa.ColumnElement[bool], ...]:
        entry = Entry(item.run.nonce, item.server_id, item.retry)
        return (
            *_is(entry),
            items.c.owner == item.owner,
            items.c.state == str(ItemState.RUNNING),
        )

    # --- The whole database ----------------------------------------------------------------------

    async def now(self) -> float:
        """The time by the clock of the database, in seconds since 1970."""
        query = sa.select(self._database.now)
        return await self._run(lambda connection: float(connection.execute(query).scalar_one()))

    async def set_rate(self, rate: float | None) -> float | None:
        """Set how many creates may start a second, unless it is None; the rate that holds."""

        def work(connection: sa.Connection) -> float | None:
            if rate is not None:
                connection.execute(sa.update(pace).values(rate=rate))
            held = connection.scalar(sa.select(pace.c.rate))
            return None if held is None else float(held)

        return await self._run(work)

    async def keeps_markers(self) -> bool:
        """Whether a reply has shown that this API keeps the markers of creates."""
        query = sa.select(facts.c.value).where(facts.c.name == "markers")
        return await self._run(lambda connection: connection.scalar(query)) is not None

    async def note_markers(self) -> None:
        """Note that a reply has shown that."""

        def work(connection: sa.Connection) -> None:
            insert = insert_into(connection, facts).values(name="markers", value="kept")
            connection.execute(insert.on_conflict_do_nothing())

        await self._run(work)

    async def _run(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._database.run(work, keep_trying=True)


def _is(entry: Entry) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        items.c.run == entry.run,
        items.c.server == entry.server_id,
        items.c.retry == entry.retry,
    )
