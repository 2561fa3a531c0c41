"""The servers of runs as workers see them, in the database; each function is one transaction.

What workers ask is tried again while the database is away.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa
from attrs import define

from vpsbackups_async._wire import Mask, unmasked
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.schema import facts, insert_into, items, pace, runs
from vpsbackups_async.durable.values import (
    RunOutcome,
    Task,
    acts_before_create,
    task_from_json,
)

__all__ = [
    "AnsweredError",
    "Item",
    "Items",
    "NoPlaceError",
    "RepeatCancelledError",
    "Run",
    "RunCancelledError",
    "SupersededError",
    "Turn",
]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("vpsbackups_async")


class SupersededError(Exception):
    """Another execution has taken the server over, so that this one must not act any more."""


class NoPlaceError(Exception):
    """As many servers are worked on as may be."""


class RunCancelledError(Exception):
    """The run was cancelled, so that no create or deletion of it may be sent any more."""


class RepeatCancelledError(RunCancelledError):
    """The run was cancelled after a 503 to a create, which does not prove that nothing was done."""


class AnsweredError(Exception):
    """A create of the item had an answer meanwhile after which none may be sent again."""


class Run(NamedTuple):
    """A run as it was submitted; its `nonce` is in the marker of each of its backups."""

    name: str
    nonce: str
    task: Task


@define(eq=False)
class Item:
    """One server of a run, as it is being worked on by the execution `owner`.

    Times are in seconds by the clock of the database. `posts` counts the creates of this retry that
    may have been sent; the first at `sent_at` at the earliest, the last not after `not_after`, and
    no longer than `window` seconds after it was intended, whatever the clock tells. Where there are
    none, those of retries since `unknown_since` were refused or answered by a 503, which says that
    nothing was done, or one of several made a backup that failed.
    `deleted` are the backups that its rotation deleted, in former retries too, and `in_doubt` those
    that it may have deleted, or that may still be deleted.
    """

    run: Run
    server_id: int
    retry: int
    owner: str
    posts: int
    sent_at: float | None
    not_after: float | None
    window: float
    may_repeat: bool
    unknown_since: int
    backup_id: int | None
    deleted: frozenset[int] = frozenset()
    in_doubt: frozenset[int] = frozenset()

    def has_deleted(self, backup_id: int) -> None:
        """Know that the backup is gone; the database is told of it with what is noted next."""
        self.deleted |= {backup_id}
        self.in_doubt -= {backup_id}

    @property
    def marker(self) -> str:
        """The marker of a create of this retry."""
        return self._marker(self.retry)

    @property
    def markers(self) -> tuple[str, ...]:
        """The markers of all creates that may have made the backup that is asked for."""
        return tuple(self._marker(retry) for retry in range(self.unknown_since, self.retry + 1))

    @property
    def is_open(self) -> bool:
        """Whether a create of it may have been carried out, be it that a 503 denied it."""
        return self.posts > 0 or self.unknown_since < self.retry

    @property
    def was_adopted(self) -> bool:
        """Whether its backup was there before, as no create of it can have made that."""
        return self.backup_id is not None and not self.posts

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


# Plain SQL: these run for each server, and building an expression takes longer than it runs.
_LOCK_CLAIMS: Final = "SELECT value FROM {facts} WHERE name = 'concurrency' FOR UPDATE"
"""So that what another worker claims at the same moment is counted; SQLite has one writer."""
_KEY: Final = "run = :run AND server = :server AND retry = :retry"
_CLAIM: Final = """
UPDATE {items} SET owner = :owner, state = 'running'
WHERE {key} AND (state = 'running' OR state = 'waiting' AND
    (SELECT count(*) FROM {items} WHERE state = 'running') <
    (SELECT CAST(value AS INTEGER) FROM {facts} WHERE name = 'concurrency'))
RETURNING posts, sent_at, not_after, sending_window, may_repeat, unknown_since, backup, deletions
"""
_WAITS: Final = "SELECT 1 FROM {items} WHERE {key} AND state = 'waiting'"
_TAKE_TURN: Final = """
UPDATE {pace} SET taken_at = {now},
    set_back = CASE WHEN taken_at > {now} THEN taken_at - {now} ELSE 0.0 END,
    next_at = {now} + coalesce(1.0 / rate + CASE
        WHEN taken_at > {now} AND next_at > taken_at THEN next_at - taken_at
        WHEN taken_at <= {now} AND next_at > {now} THEN next_at - {now}
        ELSE 0.0 END, 0.0)
RETURNING next_at, rate, {now}, set_back
"""
"""Where the clock was set back since the last turn, turns are as far ahead of it as they were."""
_TOLD_SET_BACK: Final = 1.0
"""Seconds by which a clock must be set back to be told of."""
_OWNED: Final = f"{_KEY} AND owner = :owner AND state = 'running'"
_INTEND: Final = """
UPDATE {items} SET posts = :posts, not_after = :not_after, sending_window = :window,
    sent_at = coalesce(sent_at, :at)
WHERE {owned} AND (may_repeat OR :posts = 1)
    AND (:goes_on OR NOT EXISTS (SELECT 1 FROM {runs} WHERE nonce = :run AND cancelled))
RETURNING sent_at
"""
_MAY_REPEAT: Final = "SELECT may_repeat FROM {items} WHERE {owned}"
_NOTE_BACKUP: Final = "UPDATE {items} SET backup = :backup WHERE {owned}"
_NOTE_DELETIONS: Final = "UPDATE {items} SET deletions = :deletions WHERE {owned}"
_BEGIN_DELETION: Final = """
UPDATE {items} SET deletions = :deletions WHERE {owned}
    AND NOT EXISTS (SELECT 1 FROM {runs} WHERE nonce = :run AND cancelled)
"""
_IS_OWNED: Final = "SELECT 1 FROM {items} WHERE {owned}"
_NOTE_POSTS: Final = "UPDATE {items} SET posts = :posts WHERE {owned}"
_INTEND_AGAIN: Final = """
UPDATE {items} SET posts = :posts WHERE {owned}
    AND (:goes_on OR NOT EXISTS (SELECT 1 FROM {runs} WHERE nonce = :run AND cancelled))
"""
_NOTE_AT_WORK: Final = """
UPDATE {items} SET may_repeat = FALSE WHERE run = :run AND server = :server RETURNING owner
"""
"""Whoever owns it by now: the answer may come after another execution has taken the server over."""
_END: Final = """
UPDATE {items} SET state = :state, outcome = :outcome, error = :error, deletions = :deletions
WHERE {owned}
"""
_TOLD: Final = frozenset({"backup", "detail"})
"""The fields of an outcome that have texts of the API's."""
_NOW: Final = "SELECT {now}"
_CANCELLED: Final = "SELECT nonce FROM {runs} WHERE cancelled"


class Items:
    """The servers of all runs of a database; `mask` masks secrets in what is written of the API."""

    def __init__(self, database: Database, mask: Mask = unmasked) -> None:
        self._database = database
        self._mask = mask
        self._runs: dict[str, Run] = {}
        self._texts: dict[str, sa.TextClause] = {}
        self._offset = math.inf

    async def claim(self, entry: Entry) -> Item | None:
        """The item, which no other execution may write from now on; None if it has ended.

        Raises `NoPlaceError` if it waits, and as many as may be are worked on, wherever each is.
        """
        owner = os.urandom(8).hex()
        claim, waits, key = self._text(_CLAIM), self._text(_WAITS), _key(entry)
        lock = None if self._database.is_sqlite else self._text(_LOCK_CLAIMS)

        def work(connection: sa.Connection) -> Sequence[Any] | None:
            if lock is not None:
                connection.execute(lock)
            found = connection.execute(claim, {**key, "owner": owner}).first()
            if found is None and connection.execute(waits, key).first() is not None:
                raise NoPlaceError
            return found

        row = await self._database.run(work, keep_trying=True)
        if row is None:
            return None
        posts, sent_at, not_after, window, may_repeat, unknown_since, backup, noted = row
        before = json.loads(noted or "{}")
        return Item(
            await self._run_of(entry.run),
            entry.server_id,
            entry.retry,
            owner,
            posts,
            sent_at,
            not_after,
            window,
            bool(may_repeat),
            unknown_since,
            backup,
            *(frozenset(before.get(name, ())) for name in ("deleted", "in_doubt")),
        )

    async def _run_of(self, nonce: str) -> Run:
        if nonce not in self._runs:
            query = sa.select(runs).where(runs.c.nonce == nonce)
            row = await self._run(lambda connection: connection.execute(query).one())
            self._runs[nonce] = Run(row.name, nonce, task_from_json(row.task))
        return self._runs[nonce]

    async def intend(self, item: Item, start_within: float, posts: int) -> Turn:
        """Note that a create is about to be sent, the one of this number; when it may be.

        Raises `RunCancelledError`; `AnsweredError` where it would be sent again, and must not;
        and `SupersededError`, as all that follow here.
        """
        take, intend = self._text(_TAKE_TURN), self._text(_INTEND)
        may_repeat = self._text(_MAY_REPEAT)
        owned = _owned(item)

        def work(connection: sa.Connection) -> Turn:
            asked = time.monotonic()
            after, rate, at, set_back = connection.execute(take).one()
            if set_back > _TOLD_SET_BACK:
                logger.warning("the database's clock was set back by at least %.0f s", set_back)
            # The answer that came fastest tells best how this clock and the database's differ: one
            # that was held up would move its turn onto those of others.
            offset = min(max(self._offset, asked - at), time.monotonic() - at)
            self._offset = offset
            turn = max(after - (0.0 if rate is None else 1.0 / rate), at)
            not_after = turn + start_within
            goes_on = acts_before_create(item.run.task)
            noted = {"posts": posts, "not_after": not_after, "window": not_after - at, "at": at}
            values = {**owned, **noted, "goes_on": goes_on}
            row = connection.execute(intend, values).first()
            if row is None:
                kept = connection.execute(may_repeat, owned).first()
                if kept is None:
                    raise SupersededError
                item.may_repeat = bool(kept[0])
                raise RunCancelledError if item.may_repeat or posts == 1 else AnsweredError
            item.posts, item.sent_at, item.not_after = posts, row[0], not_after
            item.window = not_after - at
            return Turn(turn + offset, not_after - at, rate is not None)

        return await self._run(work)

    async def intend_again(self, item: Item, posts: int) -> None:
        """Note that the create, which was answered by a 503, is about to be sent again.

        Raises `RepeatCancelledError`: then it must not be sent.
        """
        goes_on = acts_before_create(item.run.task)
        more = {"posts": posts, "goes_on": goes_on}
        await self._write_unless_cancelled(item, _INTEND_AGAIN, RepeatCancelledError, **more)
        item.posts = posts

    async def note_started(self, item: Item, backup_id: int) -> None:
        """Note the backup that was started, or found."""
        await self._write(item, _NOTE_BACKUP, backup=backup_id)
        item.backup_id = backup_id

    async def give_up_backup(self, item: Item) -> None:
        """Note that the backup that was found is gone for good, before one is made in its place.

        Who takes the item over would not tell it from the backup of its create.
        """
        await self._write(item, _NOTE_BACKUP, backup=None)
        item.backup_id = None

    async def begin_deletion(self, item: Item, backup_id: int) -> None:
        """Note a backup that a rotation is about to delete.

        Raises `RunCancelledError`: then it must not be deleted.
        """
        in_doubt = item.in_doubt | {backup_id}
        text = _deletions_text(item.deleted, in_doubt)
        await self._write_unless_cancelled(item, _BEGIN_DELETION, RunCancelledError, deletions=text)
        item.in_doubt = in_doubt

    async def note_deletions(self, item: Item) -> None:
        """Note which backups the rotation of the item deleted, and which are in doubt."""
        text = _deletions_text(item.deleted, item.in_doubt)
        await self._write(item, _NOTE_DELETIONS, deletions=text)

    async def note_posts(self, item: Item, posts: int) -> None:
        """Note how many creates may have been carried out, once others were refused or not sent."""
        await self._write(item, _NOTE_POSTS, posts=posts)
        item.posts = posts

    async def note_at_work(self, item: Item) -> bool:
        """Note that the server may still work on the create, so that it is never sent again.

        That also holds for an execution that has taken the item over meanwhile: False if so.
        """
        item.may_repeat = False
        note, values = self._text(_NOTE_AT_WORK), _key(_entry(item))
        owner = await self._run(lambda connection: connection.execute(note, values).scalar())
        return owner == item.owner

    async def end(self, item: Item, outcome: RunOutcome) -> None:
        """Note how the item ended; its deletions are those that the item has."""
        fields = outcome.to_dict() | {"ended_at": datetime.now(UTC).isoformat()}
        fields |= {name: _masked(fields[name], self._mask) for name in _TOLD & fields.keys()}
        text = json.dumps(fields)
        values = {"state": str(outcome.state), "outcome": text, "error": outcome.error}
        deletions = _deletions_text(item.deleted, item.in_doubt)
        await self._write(item, _END, deletions=deletions, **values)

    async def _write(self, item: Item, statement: str, **more: object) -> None:
        update, values = self._text(statement), {**_owned(item), **more}
        if await self._run(lambda connection: connection.execute(update, values).rowcount) == 0:
            raise SupersededError

    async def _write_unless_cancelled(
        self, item: Item, statement: str, cancelled: type[RunCancelledError], **more: object
    ) -> None:
        """Write to the item by a statement that does nothing once the run is cancelled."""
        update, is_owned = self._text(statement), self._text(_IS_OWNED)
        owned = _owned(item)

        def work(connection: sa.Connection) -> None:
            if connection.execute(update, {**owned, **more}).rowcount == 0:
                is_ours = connection.execute(is_owned, owned).first() is not None
                raise cancelled if is_ours else SupersededError

        await self._run(work)

    # --- The whole database ----------------------------------------------------------------------

    async def now(self) -> float:
        """The time by the clock of the database, in seconds since 1970."""
        query = self._text(_NOW)
        return await self._run(lambda connection: float(connection.execute(query).scalar_one()))

    async def cancelled_runs(self) -> frozenset[str]:
        """The nonces of the runs that are cancelled."""
        query = self._text(_CANCELLED)
        return await self._run(lambda connection: frozenset(connection.execute(query).scalars()))

    async def set_limits(
        self, rate: float | None, concurrency: int | None
    ) -> tuple[float | None, int]:
        """Set how many creates may start a second, and how many servers be worked on at once.

        None leaves either as it is. The limits that hold.
        """

        def work(connection: sa.Connection) -> tuple[float | None, int]:
            if rate is not None:
                connection.execute(sa.update(pace).values(rate=rate))
            if concurrency is not None:
                update = sa.update(facts).where(facts.c.name == "concurrency")
                connection.execute(update.values(value=str(concurrency)))
            held = connection.scalar(sa.select(pace.c.rate))
            bound = sa.select(facts.c.value).where(facts.c.name == "concurrency")
            kept = connection.execute(bound).scalar_one()
            return None if held is None else float(held), int(kept)

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

    def _text(self, statement: str) -> sa.TextClause:
        """The statement in the dialect of the database."""
        if statement not in self._texts:
            names = {
                "items": self._database.name_of(items),
                "pace": self._database.name_of(pace),
                "facts": self._database.name_of(facts),
                "runs": self._database.name_of(runs),
                "now": self._database.clock,
                "key": _KEY,
                "owned": _OWNED,
            }
            self._texts[statement] = sa.text(statement.format_map(names))
        return self._texts[statement]

    async def _run(self, work: Callable[[sa.Connection], T]) -> T:
        return await self._database.run(work, keep_trying=True, by_statement=True)


def _masked(value: Any, mask: Mask) -> Any:
    """The value for JSON with each of its texts masked."""
    match value:
        case str():
            return mask(value)
        case list():
            return [_masked(one, mask) for one in value]
        case dict():
            return {mask(name): _masked(one, mask) for name, one in value.items()}
        case _:
            return value


def _deletions_text(deleted: frozenset[int], in_doubt: frozenset[int]) -> str | None:
    if not (deleted or in_doubt):
        return None
    return json.dumps({"deleted": sorted(deleted), "in_doubt": sorted(in_doubt)})


def _key(entry: Entry) -> dict[str, object]:
    return {"run": entry.run, "server": entry.server_id, "retry": entry.retry}


def _entry(item: Item) -> Entry:
    return Entry(item.run.nonce, item.server_id, item.retry)


def _owned(item: Item) -> dict[str, object]:
    return {**_key(_entry(item)), "owner": item.owner}
