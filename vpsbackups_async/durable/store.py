"""The runs of a database, as those who submit and watch them see them.

Each function is one transaction, and touches 500 servers at most.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, TypeVar

import sqlalchemy as sa

from vpsbackups_async.durable.conditions import fresh, made_nothing, waits, was_cut_short
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.items import Run
from vpsbackups_async.durable.schema import VERSION, facts, insert_into, items, lock_runs, runs
from vpsbackups_async.durable.values import (
    ENDED,
    UNDER_WAY,
    ItemState,
    RunInfo,
    RunOutcome,
    RunProgress,
    Task,
    differences,
    task_from_json,
    task_to_json,
)
from vpsbackups_async.errors import (
    CreateOutcomeUnknownError,
    DatabaseError,
    RunError,
)

__all__ = ["CancelledRunError", "Store"]

T = TypeVar("T")

Enqueue: TypeAlias = Callable[[sa.Connection, Iterable[Entry]], None]
"""Queues entries within a transaction."""

_UNKNOWN: Final = CreateOutcomeUnknownError.__name__
_BATCH: Final = 500
_NONCE_BYTES: Final = 6
_UNDER_WAY: Final = [str(state) for state in UNDER_WAY]
_ENDED: Final = [str(state) for state in ENDED]


class CancelledRunError(RunError):
    """The `run` was cancelled, and gets no more servers."""

    run: Run


class Store:
    """The runs of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def failed(self, error: Exception) -> DatabaseError:
        """The error of ours for one of the database."""
        return self._database.failed(error)

    async def submit(
        self,
        name: str,
        task: Task,
        server_ids: Sequence[int],
        enqueue: Enqueue,
        *,
        whole: bool = True,
    ) -> tuple[Run, int]:
        """The run, which is new or was submitted with the same task before, with servers added.

        The count is how many of the servers are new to it. Until `add` gives the last ones, or
        these are the `whole` of them, the run is marked as one that is not wholly submitted.
        """

        def work(connection: sa.Connection) -> tuple[Run, int]:
            run = self._submitted(connection, name, task, whole=whole)
            return run, _add(connection, run, server_ids, enqueue)

        return await self._database.run(work)

    def _submitted(self, connection: sa.Connection, name: str, task: Task, *, whole: bool) -> Run:
        text = task_to_json(task)
        new = insert_into(connection, runs).values(
            nonce=os.urandom(_NONCE_BYTES).hex(),
            name=name,
            task=text,
            version=VERSION,
            submitted_at=self._database.now,
            cancelled=False,
            whole=whole,
        )
        # With an update, so that a run that is there is not forgotten meanwhile.
        upsert = new.on_conflict_do_update(index_elements=[runs.c.name], set_={"whole": whole})
        row = connection.execute(upsert.returning(runs)).one()
        if row.version != VERSION:
            raise RunError(f"run {name!r} was submitted by another version of this library")
        if row.task != text:
            raise _refused(
                f"run {name!r} was submitted with {differences(row.task, text)}",
                "Give the same options again, or take another name",
            )
        run = Run(name, row.nonce, task)
        if row.cancelled:
            error = CancelledRunError(f"run {name!r} was cancelled")
            error.run = run
            error.hint = (
                "Take another name, or let its servers be worked on after all "
                "(vpsbackups run retry --only cancelled)"
            )
            raise error
        return run

    async def submit_night(self, name: str, task: Task) -> Run:
        """The run of a schedule, without servers yet; tried again while the database is away.

        That it was begun is kept until `end_night`, also if it is forgotten before: then `RunError`
        is raised, as it is by `submit`.
        """

        def work(connection: sa.Connection) -> Run:
            note = insert_into(connection, facts).values(name=_night(name), value="")
            # With an update, so that it is locked before the run, as `forget` does it.
            locked = note.on_conflict_do_update(
                index_elements=[facts.c.name], set_={"value": facts.c.value}
            )
            if connection.scalar(locked.returning(facts.c.value)):
                raise RunError(f"run {name!r} was forgotten meanwhile")
            return self._submitted(connection, name, task, whole=False)

        return await self._database.run(work, keep_trying=True)

    async def forgotten_night(self, name: str) -> RunProgress | None:
        """How the run of a schedule had ended as it was forgotten; None if it was not."""
        query = sa.select(facts.c.value).where(facts.c.name == _night(name))
        value = await self._database.run(
            lambda connection: connection.scalar(query), keep_trying=True
        )
        return RunProgress(name, **json.loads(value)) if value else None

    async def end_night(self, name: str) -> None:
        """Note that the end of the run of a schedule was told.

        If it was forgotten before, that stays: a worker that stops now does the night again.
        """
        note = sa.delete(facts).where(facts.c.name == _night(name), facts.c.value == "")
        await self._database.run(lambda connection: connection.execute(note), keep_trying=True)

    async def add(
        self,
        run: Run,
        server_ids: Sequence[int],
        enqueue: Enqueue,
        *,
        whole: bool,
        keep_trying: bool = False,
    ) -> int:
        """Add servers to a run, but for those that it has; how many are new.

        `whole` is whether no more follow. Raises `RunError` if it was forgotten meanwhile, as
        `add_free` does.
        """

        def work(connection: sa.Connection) -> int:
            _mark(connection, run, whole=whole)
            return _add(connection, run, server_ids, enqueue)

        return await self._database.run(work, keep_trying=keep_trying)

    async def add_free(self, run: Run, server_ids: Sequence[int], enqueue: Enqueue) -> int:
        """Add servers to a run, but pass over those that another run works on; how many those are.

        Who is passed over is ended as cancelled. Two runs that are added so at the same time never
        both have a server. It is tried again while the database is away.
        """
        busy = (
            sa.select(items.c.server, sa.func.min(runs.c.name))
            .join(runs, runs.c.nonce == items.c.run)
            .where(items.c.server.in_(server_ids), items.c.run != run.nonce)
            .where(items.c.state.in_(_UNDER_WAY))
            .group_by(items.c.server)
        )

        def work(connection: sa.Connection) -> int:
            lock_runs(connection)
            _mark(connection, run, whole=False)
            rows = [
                {
                    "run": run.nonce,
                    "server": server,
                    "state": str(ItemState.CANCELLED),
                    "outcome": json.dumps({"detail": f"run {other!r} still works on it"}),
                }
                for server, other in connection.execute(busy)
            ]
            passed: Sequence[int] = ()
            if rows:
                insert = insert_into(connection, items).values(rows).on_conflict_do_nothing()
                passed = connection.execute(insert.returning(items.c.server)).scalars().all()
            _add(connection, run, server_ids, enqueue)  # but for those that it has by now
            return len(passed)

        return await self._database.run(work, keep_trying=True)

    async def find(self, name: str) -> Run:
        """The run of this name; raises `RunError` if there is none."""

        def work(connection: sa.Connection) -> Run:
            row = connection.execute(sa.select(runs).where(runs.c.name == name)).first()
            if row is None:
                raise _no_run(name)
            return Run(name, row.nonce, self._task_of(row))

        return await self._database.run(work)

    def _task_of(self, row: Any) -> Task:
        """The task of a row of `runs`; raises `DatabaseError` for one that cannot be read."""
        try:
            return task_from_json(row.task)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            unreadable = DatabaseError(
                f"what run {row.name!r} of the database {self._database.name} is to do cannot be "
                f"read: {why}"
            )
            unreadable.hint = (
                "It is damaged, or was submitted by a newer version of this library: use that one, "
                "or forget the run if it is over (vpsbackups run forget)"
            )
            raise unreadable from None

    async def is_begun(self, name: str) -> bool:
        """Whether a run has this name, or one of a schedule had; tried again as `add_free` is."""
        run = sa.select(runs.c.nonce).where(runs.c.name == name)
        note = sa.select(facts.c.name).where(facts.c.name == _night(name))
        return await self._database.run(
            lambda connection: connection.execute(run.union_all(note)).first() is not None,
            keep_trying=True,
        )

    async def all_runs(self) -> list[RunInfo]:
        """All runs, in the order of their submission."""
        query = sa.select(runs).where(runs.c.name.is_not(None))

        def work(connection: sa.Connection) -> list[RunInfo]:
            rows = connection.execute(query.order_by(runs.c.submitted_at, runs.c.name))
            return [
                RunInfo(
                    row.name,
                    self._task_of(row),
                    datetime.fromtimestamp(row.submitted_at, UTC),
                    row.cancelled,
                )
                for row in rows
            ]

        return await self._database.run(work)

    async def is_told(self, run: Run) -> bool:
        """Whether `tell` was called for the run."""
        query = sa.select(runs.c.told).where(runs.c.nonce == run.nonce)
        return bool(await self._database.run(lambda connection: connection.scalar(query)))

    async def tell(self, run: Run) -> None:
        """Note that the outcomes of the run were written."""
        update = sa.update(runs).where(runs.c.nonce == run.nonce).values(told=True)
        await self._database.run(lambda connection: connection.execute(update))

    async def told(self, age: timedelta) -> Sequence[str]:
        """The names of the runs that were submitted so long ago, and were told."""
        until = self._database.now - age.total_seconds()
        query = sa.select(runs.c.name).where(runs.c.name.is_not(None), runs.c.told)
        query = query.where(runs.c.submitted_at <= until)
        return await self._database.run(
            lambda connection: connection.execute(query).scalars().all()
        )

    async def progress(self, run: Run) -> RunProgress:
        """How many servers of the run are how far."""
        state = sa.case((waits(run), str(ItemState.WAITING)), else_=items.c.state).label("state")
        query = (
            sa.select(state, sa.func.count().label("count"))
            .where(items.c.run == run.nonce)
            .group_by(state)
        )
        is_whole = sa.select(runs.c.whole).where(runs.c.nonce == run.nonce)

        def work(connection: sa.Connection) -> RunProgress:
            found = {state: int(count) for state, count in connection.execute(query)}
            whole = connection.scalar(is_whole) is not False
            return RunProgress(run.name, **found, wholly_submitted=whole)

        return await self._database.run(work)

    async def retry(self, run: Run, only: ItemState, after: int, enqueue: Enqueue) -> list[int]:
        """Let up to 500 servers that ended so, of ids after this one, wait again; their ids.

        Raises `RunError` if the run was forgotten meanwhile.
        """
        chosen = (
            sa.select(items.c.server)
            .where(items.c.run == run.nonce, items.c.server > after, items.c.state == str(only))
            .order_by(items.c.server)
            .limit(_BATCH)
        )
        # What is known counts again if the retry is cancelled.
        known = ~made_nothing()
        known &= (items.c.state != str(ItemState.CANCELLED)) | items.c.backup.is_not(None)
        update = (
            sa.update(items)
            .where(items.c.run == run.nonce, items.c.server.in_(chosen))
            .where(items.c.state == str(only))
            .values(
                state=str(ItemState.WAITING),
                retry=items.c.retry + 1,
                owner=None,
                error=sa.case((known, items.c.error)),
                outcome=sa.case((known, items.c.outcome)),
                **fresh(),
            )
            .returning(items.c.server, items.c.retry)
        )

        def work(connection: sa.Connection) -> list[int]:
            _mark(connection, run, cancelled=False)
            found = connection.execute(update).all()
            enqueue(connection, [Entry(run.nonce, server, retry) for server, retry in found])
            return [server for server, _ in found]

        return await self._database.run(work)

    async def cancel(self, run: Run) -> tuple[int, list[Entry]]:
        """Cancel up to 500 servers of the run that wait: how many, and those that nobody has taken.

        One that waits for a retry, and of which a backup may be there, ends again as it had.
        """
        chosen = sa.select(items.c.server).where(items.c.run == run.nonce, waits(run))
        update = (
            sa.update(items)
            .where(items.c.run == run.nonce, items.c.server.in_(chosen.limit(_BATCH)))
            .where(waits(run))
            .values(
                state=sa.case(
                    (was_cut_short(), str(ItemState.CANCELLED)),
                    (items.c.backup.is_not(None), str(ItemState.FAILED)),
                    (items.c.error == _UNKNOWN, str(ItemState.UNKNOWN)),
                    (items.c.error.is_not(None), str(ItemState.FAILED)),
                    else_=str(ItemState.CANCELLED),
                )
            )
            .returning(items.c.server, items.c.retry, items.c.owner)
        )

        def work(connection: sa.Connection) -> tuple[int, list[Entry]]:
            mark = sa.update(runs).where(runs.c.nonce == run.nonce).values(cancelled=True)
            connection.execute(mark)
            found = connection.execute(update).all()
            left = [Entry(run.nonce, row.server, row.retry) for row in found if row.owner is None]
            return len(found), left

        return await self._database.run(work)

    async def forget(self, name: str) -> str:
        """Let the run be found no more by its name, which a new one may have; its nonce.

        So nothing is ever added to a run of which a part is deleted. Raises `RunError` if there is
        no such run, or if it is not over.
        """
        hide = sa.update(runs).where(runs.c.name == name).values(name=None)
        of_night = sa.update(facts).where(facts.c.name == _night(name), facts.c.value == "")

        def work(connection: sa.Connection) -> str:
            connection.execute(of_night.values(value=facts.c.value))  # locks it
            row = connection.execute(hide.returning(runs.c.nonce, runs.c.whole)).first()
            if row is None:
                raise _no_run(name)
            # Asked once the run is locked: a retry of it is over, or fails.
            query = sa.select(sa.func.count()).where(items.c.run == row.nonce)
            left = connection.execute(query.where(items.c.state.in_(_UNDER_WAY))).scalar_one()
            if left:
                raise _refused(
                    f"run {name!r} is not over: {left} servers have no outcome",
                    "Let a worker end it first (vpsbackups run work --until-done), after a "
                    "vpsbackups run cancel if what still waits is not to be done",
                )
            ends = sa.select(items.c.state, sa.func.count()).where(items.c.run == row.nonce)
            rows = connection.execute(ends.group_by(items.c.state))
            ended = {state: int(count) for state, count in rows}
            kept = json.dumps({**ended, "wholly_submitted": row.whole})
            connection.execute(of_night.values(value=kept))
            return str(row.nonce)

        return await self._database.run(work)

    async def forgotten(self) -> Sequence[str]:
        """The nonces of the forgotten runs of which something is left."""
        query = sa.select(runs.c.nonce).where(runs.c.name.is_(None))
        return await self._database.run(
            lambda connection: connection.execute(query).scalars().all()
        )

    async def some_entries(self, nonce: str) -> list[Entry]:
        """All entries, those of former retries included, of up to 500 servers of the run."""
        query = sa.select(items.c.server, items.c.retry).where(items.c.run == nonce)
        found = await self._database.run(
            lambda connection: connection.execute(query.limit(_BATCH)).all()
        )
        return [
            Entry(nonce, server, retry) for server, retries in found for retry in range(retries + 1)
        ]

    async def delete(self, nonce: str, entries: Sequence[Entry]) -> None:
        """Delete these servers of the run, and the run itself if there are none."""
        servers = list({entry.server_id for entry in entries})

        def work(connection: sa.Connection) -> None:
            if servers:
                of_run = items.c.run == nonce
                connection.execute(sa.delete(items).where(of_run, items.c.server.in_(servers)))
            else:
                connection.execute(sa.delete(runs).where(runs.c.nonce == nonce))

        await self._database.run(work)

    async def is_idle(self) -> bool:
        """Whether no server of any run waits or is worked on."""
        under_way = items.c.state.in_(_UNDER_WAY)
        query = sa.select(items.c.server).where(under_way).limit(1)
        found = await self._database.run(lambda connection: connection.execute(query).first())
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
                | json.loads(row.deletions or "{}")
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


def _night(name: str) -> str:
    """The fact that a run of a schedule was begun."""
    return f"night {name}"


def _refused(said: str, hint: str) -> RunError:
    error = RunError(said)
    error.hint = hint
    return error


def _no_run(name: str) -> RunError:
    return RunError(f"no run is called {name!r}")


def _mark(connection: sa.Connection, run: Run, **values: bool) -> None:
    """Set these values of the run, which keeps it from being forgotten during this transaction.

    Raises `RunError` if it has been, maybe while another one of this name was submitted.
    """
    update = sa.update(runs).where(runs.c.nonce == run.nonce, runs.c.name.is_not(None))
    if connection.execute(update.values(values)).rowcount == 0:
        raise RunError(f"run {run.name!r} was forgotten meanwhile")


def _add(connection: sa.Connection, run: Run, server_ids: Sequence[int], enqueue: Enqueue) -> int:
    if not server_ids:
        return 0
    rows = [{"run": run.nonce, "server": server_id} for server_id in server_ids]
    insert = insert_into(connection, items).values(rows).on_conflict_do_nothing()
    new = connection.execute(insert.returning(items.c.server)).scalars().all()
    enqueue(connection, [Entry(run.nonce, server_id, 0) for server_id in new])
    return len(new)
