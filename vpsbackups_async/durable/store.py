"""What is known of runs and of their servers, in the database; each function is one transaction."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa
from attrs import define
from sqlalchemy.dialects import postgresql, sqlite

from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.schema import VERSION, facts, items, pace, runs
from vpsbackups_async.durable.values import (
    ENDED,
    UNDER_WAY,
    ItemState,
    RunInfo,
    RunOutcome,
    RunProgress,
    Task,
    task_from_json,
    task_to_json,
)
from vpsbackups_async.errors import RunError

__all__ = ["Item", "Run", "Store", "SupersededError", "Turn"]

T = TypeVar("T")

_NONCE_BYTES: Final = 6
_UNDER_WAY: Final = [str(state) for state in UNDER_WAY]
_ENDED: Final = [str(state) for state in ENDED]


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
    """When a create may be sent, in seconds from now, and until when."""

    starts_in: float
    ends_in: float


class Store:
    """The runs of a database. What workers ask is tried again while the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs: dict[str, Run] = {}

    # --- Runs ------------------------------------------------------------------------------------

    async def submit(self, name: str, task: Task) -> Run:
        """The run, which is new or was submitted with the same task before."""
        text = task_to_json(task)

        def work(connection: sa.Connection) -> Run:
            row = connection.execute(sa.select(runs).where(runs.c.name == name)).first()
            if row is None:
                nonce = os.urandom(_NONCE_BYTES).hex()
                connection.execute(
                    sa.insert(runs).values(
                        nonce=nonce,
                        name=name,
                        task=text,
                        version=VERSION,
                        submitted_at=self._database.now,
                        cancelled=False,
                    )
                )
                return Run(name, nonce, task)
            if row.version != VERSION:
                raise RunError(f"run {name!r} was submitted by another version of this library")
            if row.task != text:
                raise RunError(
                    f"run {name!r} was submitted with other options, or another description"
                )
            if row.cancelled:
                raise RunError(f"run {name!r} was cancelled")
            return Run(name, row.nonce, task)

        return await self._database.run(work)

    async def add(
        self,
        run: Run,
        server_ids: Sequence[int],
        enqueue: Callable[[sa.Connection, Iterable[Entry]], None],
    ) -> int:
        """Add servers to a run, but for those that it has; how many are new."""

        def work(connection: sa.Connection) -> int:
            rows = [{"run": run.nonce, "server": server_id} for server_id in server_ids]
            insert = _insert(connection, items).values(rows).on_conflict_do_nothing()
            new = connection.execute(insert.returning(items.c.server)).scalars().all()
            enqueue(connection, [Entry(run.nonce, server_id, 0) for server_id in new])
            return len(new)

        return await self._database.run(work)

    async def find(self, name: str) -> Run:
        """The run of this name; raises `RunError` if there is none."""

        def work(connection: sa.Connection) -> Run:
            row = connection.execute(sa.select(runs).where(runs.c.name == name)).first()
            if row is None:
                raise RunError(f"no run is called {name!r}")
            return Run(name, row.nonce, task_from_json(row.task))

        return await self._database.run(work)

    async def all_runs(self) -> list[RunInfo]:
        """All runs, in the order of their submission."""

        def work(connection: sa.Connection) -> list[RunInfo]:
            rows = connection.execute(sa.select(runs).order_by(runs.c.submitted_at, runs.c.name))
            return [
                RunInfo(
                    row.name,
                    task_from_json(row.task),
                    datetime.fromtimestamp(row.submitted_at, UTC),
                    row.cancelled,
                )
                for row in rows
            ]

        return await self._database.run(work)

    async def progress(self, run: Run) -> RunProgress:
        """How many servers of the run are how far."""
        query = (
            sa.select(items.c.state, sa.func.count().label("count"))
            .where(items.c.run == run.nonce)
            .group_by(items.c.state)
        )
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return RunProgress(run.name, **{state: int(count) for state, count in rows})

    async def is_idle(self) -> bool:
        """Whether no server of any run waits or is worked on."""
        query = sa.select(items.c.server).where(items.c.state.in_(_UNDER_WAY)).limit(1)
        found = await self._database.run(
            lambda connection: connection.execute(query).first(), keep_trying=True
        )
        return found is None

    async def outcomes(self, run: Run, after: int, limit: int) -> list[RunOutcome]:
        """The outcomes of the servers after this id, in the order of ids."""
        query = (
            sa.select(items)
            .where(items.c.run == run.nonce, items.c.server > after, items.c.state.in_(_ENDED))
            .order_by(items.c.server)
            .limit(limit)
        )
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [
            RunOutcome.from_dict(
                json.loads(row.outcome or "{}")
                | {
                    "run": run.name,
                    "server_id": row.server,
                    "state": row.state,
                    "backup_id": row.backup,
                    "retry": row.retry,
                }
            )
            for row in rows
        ]

    # --- One server, by the worker that has it ---------------------------------------------------

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

    async def intend(self, item: Item, start_within: float) -> Turn:
        """Note that a create is about to be sent; when it may be.

        Raises `SupersededError`, as all that follow here.
        """
        now = self._database.now

        def work(connection: sa.Connection) -> tuple[Any, float, float]:
            begins = sa.case((pace.c.next_at > now, pace.c.next_at), else_=now)
            reserve = (
                sa.update(pace)
                .values(next_at=begins + sa.func.coalesce(1.0 / pace.c.rate, 0.0))
                .returning(pace.c.next_at, pace.c.rate, now)
            )
            after, rate, at = connection.execute(reserve).one()
            paused = 0.0 if rate is None else 1.0 / rate
            turn = max(after - paused, at)
            update = (
                sa.update(items)
                .where(*self._owned(item))
                .values(
                    posts=items.c.posts + 1,
                    sent_at=sa.func.coalesce(items.c.sent_at, at),
                    not_after=turn + start_within,
                )
                .returning(items.c.posts, items.c.sent_at, items.c.not_after)
            )
            return connection.execute(update).first(), turn, at

        row, turn, at = await self._run(work)
        if row is None:
            raise SupersededError
        item.posts, item.sent_at, item.not_after = row
        return Turn(turn - at, turn - at + start_within)

    async def note_started(self, item: Item, backup_id: int) -> None:
        """Note the backup that was started, or found."""
        await self._write(item, backup=backup_id)
        item.backup_id = backup_id

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
            insert = _insert(connection, facts).values(name="markers", value="kept")
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


def _insert(connection: sa.Connection, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
    """An insert that can pass over rows that are there, in the dialect of the database."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)
