"""`DurableFleet`: runs over many servers that survive whatever dies meanwhile."""

import asyncio
import signal
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sized,
)
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from vpsbackups_async._checks import check_duration
from vpsbackups_async._lists.sources import Servers, check_servers
from vpsbackups_async._ping import check_ping
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.asked import check_new_run, check_run, id_of, task_of
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import EngineClient, migrate
from vpsbackups_async.durable.items import Run
from vpsbackups_async.durable.ownership import check, claim
from vpsbackups_async.durable.roll import silent_workers
from vpsbackups_async.durable.schedules import Schedule
from vpsbackups_async.durable.schema import create_tables
from vpsbackups_async.durable.store import Store
from vpsbackups_async.durable.urls import default_url
from vpsbackups_async.durable.values import (
    ItemState,
    Limits,
    RunInfo,
    RunOutcome,
    RunProgress,
    SilentWorker,
)
from vpsbackups_async.durable.worker import IsDone, Worker
from vpsbackups_async.errors import RunError
from vpsbackups_async.models import AllServers, Server
from vpsbackups_async.retention import Retention

__all__ = ["DurableFleet"]

T = TypeVar("T")

_BATCH: Final = 500


class DurableFleet:
    """Runs over many servers, kept in a database, so that they survive the processes.

        async with DurableFleet() as fleet:
            await fleet.submit("nightly", [12345, 12346])
            await fleet.work(until_done=True)

    A run is submitted once, under a name, and worked on by any number of workers, each a process
    that awaits `work`. A worker that is killed leaves nothing undone and has nothing done twice:
    another one, or itself started again, goes on.

    - `url` is the database: `sqlite:///PATH` for workers on one machine, by default a file in the
      user's state folder; `postgresql://USER:PASSWORD@HOST/NAME` for workers on many.
    - `client_options` are the arguments of `BackupsClient`, for `work` and for `ALL_SERVERS`; the
      token and the URL of the API come from the environment unless they are among them.
    - `limits` bounds how fast workers go.
    - `account` names whose database it is, where the API does not tell the account of a token.

    A database is of one account: what changes a run or a schedule is refused with the token of
    another one. Without a token who can write to the database may change it; to look at runs takes
    none.

    Nothing is connected to before the first call. No token is ever written to the database.

    Raises `ConfigurationError` for a URL that cannot be one; its methods raise it for a database
    that cannot be used, and once it is closed, and `DatabaseError` where it fails while it is used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client_options: Mapping[str, Any] | None = None,
        limits: Limits = Limits(),
        account: str | None = None,
    ) -> None:
        if not isinstance(limits, Limits):
            raise ValueError(f"limits must be Limits, not {limits!r}")
        self._database = Database(url or default_url())
        self._options = dict(client_options or {})
        self._limits = limits
        self._account = account
        self._store = Store(self._database)
        self._engine: EngineClient | None = None
        self._opening = asyncio.Lock()
        self._unsettled = 0
        self._unsubmitted: list[str] = []

    def __repr__(self) -> str:
        return f"<DurableFleet {self._database.name}>"

    @property
    def name(self) -> str:
        """The URL of the database, without its password."""
        return self._database.name

    # --- Submit ----------------------------------------------------------------------------------

    async def submit(
        self,
        run: str,
        servers: Servers,
        *,
        description: str | None = None,
        job: str | None = None,
        ensure: timedelta | None = None,
        rotate: Retention | None = None,
        make_room: bool = False,
    ) -> int:
        """Add servers to the run of this name, which is new or has the same options; how many.

        Servers that the run has already are passed over, so that a `submit` that was cut off can be
        repeated; until then the run is not `RunProgress.wholly_submitted`. `servers` is any
        iterable or async iterable of ids or `Server` values, or `ALL_SERVERS`. A worker creates a
        backup of each, with this description and the label of this `job`, and waits for its end.
        With `ensure` it does so only where there is none with this description that is younger;
        with `rotate` it rotates, as `BackupsClient.rotate` does. Where it is cancelled, the servers
        that are being added at that moment are added before the `CancelledError` is raised.

        Raises `RunError` if the run was submitted with other options, by another version of this
        library, or was cancelled; `ValueError` for bad arguments; `ConfigurationError` where the
        database is of another account than the token, if there is one.
        """
        task = task_of(description, job, ensure, rotate, make_room=make_room)
        check_new_run(run)
        check_servers(servers)
        if isinstance(servers, Sized) and isinstance(servers, Iterable):
            servers = [id_of(server) for server in servers]  # all are checked before any is added
        engine = await self._open()
        if not isinstance(servers, AllServers):
            await self._check_account()
        async with aclosing(self._in_batches(servers)) as batches:
            # With the first servers, for a run without any is over.
            ids: list[int] = await anext(batches, [])
            whole = len(ids) < _BATCH
            begin = self._store.submit(run, task, ids, engine.enqueue, whole=whole)
            added, count = await _to_its_end(begin)
            while not whole:
                ids = await anext(batches, [])
                whole = len(ids) < _BATCH
                more = self._store.add(added, ids, engine.enqueue, whole=whole)
                count += await _to_its_end(more)
        return count

    async def _in_batches(self, servers: Servers) -> AsyncGenerator[list[int], None]:
        """The ids of the servers, in lists of which only the last one is shorter than `_BATCH`."""
        if isinstance(servers, AllServers):
            async with WorkerClient(**self._options) as client:
                await claim(self._database, client, self._account)
                servers = await client.server_ids(servers)
        if isinstance(servers, AsyncIterable):
            batch: list[int] = []
            async for server in servers:
                batch.append(id_of(server))
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
            if batch:
                yield batch
            return
        ids = (id_of(server) for server in servers)
        while batch := list(islice(ids, _BATCH)):
            yield batch

    async def schedule(
        self,
        name: str,
        cron: str,
        servers: Iterable[int | Server] | AllServers,
        *,
        tz: str = "UTC",
        description: str | None = None,
        job: str | None = None,
        ensure: timedelta | None = None,
        rotate: Retention | None = None,
        make_room: bool = False,
        ping: str | None = None,
    ) -> None:
        """Have workers submit a run whenever this line of cron is due in the time zone `tz`.

        The run is called `NAME@2026-11-29T02:00Z`, by its time in UTC. Times that are missed while
        no worker runs are caught up with one run, for the last of them. A server that another run
        still works on is passed over: it ends as cancelled, and its `detail` names that run.
        `servers` are kept as ids; `ALL_SERVERS` is read at each time. The rest is as for `submit`.

        `ping` is a URL that is told of the start of each run and of its end, with `/fail` if any
        server failed or none was backed up, as healthchecks.io has it. It is kept in the database.

        Raises `ValueError` for bad arguments, for a line of cron that is never due, for a policy
        that fits into no server's quota, and for a name that is taken; `ConfigurationError` as
        `submit` does.
        """
        task = task_of(description, job, ensure, rotate, make_room=make_room)
        check_new_run(name)
        if ping is not None:
            check_ping(ping)
        check_servers(servers)
        ids = None if isinstance(servers, AllServers) else tuple(id_of(one) for one in servers)
        schedule = Schedule(name, cron, tz, task, ids, ping, datetime.now(UTC))
        engine = await self._open()
        await self._check_account()
        context = schedule.to_context()
        await self._database.call(lambda: engine.add_schedule(name, cron, tz, context))

    async def schedules(self) -> list[Schedule]:
        """All schedules of the database, by their names."""
        engine = await self._open()
        return [Schedule.from_context(one) for one in await self._database.call(engine.schedules)]

    async def unschedule(self, name: str) -> None:
        """Delete a schedule; its runs stay.

        Raises `RunError` if there is no such schedule; `ConfigurationError` as `submit` does.
        """
        check_run(name)
        engine = await self._open()
        await self._check_account()
        if not await self._database.call(lambda: engine.delete_schedule(name)):
            missing = RunError(f"no schedule is called {name!r}")
            missing.hint = "Look at the schedules that there are (vpsbackups run schedule)"
            raise missing

    # --- Work ------------------------------------------------------------------------------------

    async def work(
        self, *, until_done: bool | str = False, on_start: Callable[[int], object] | None = None
    ) -> signal.Signals | None:
        """Work on all runs of the database until SIGTERM or SIGINT arrives, which is returned.

        With `until_done` it also ends, with None, once no server waits or is worked on: of any
        run, or of the run of that name. At its end nothing more is started, creates that are on the
        wire end, and what is waited for is left to another worker; a second signal leaves it those
        creates, too, and `unsettled` tells how many. `on_start` is called with the number of this
        worker's slot.

        There is one worker in a process at a time, and the process should be its own: the engine is
        global, and takes the event loop's default executor. Handlers that the application gave to
        the event loop (`add_signal_handler`) are called as well; those of `signal.signal` are put
        back at the end.

        Raises `AuthenticationError` if the token is refused; `WorkerStoppedError` if the worker
        lost its slot; `DatabaseError` if the database fails, as where its disk is full;
        `ConfigurationError` for a database of another account, without a token, and while this
        process works on another database.
        """
        async with WorkerClient(**self._options) as client:
            engine = await self._open()
            worker = Worker(self._database, engine, client, self._limits, self._account)
            is_done = await self._end_of(until_done, worker)
            self._unsettled, self._unsubmitted = 0, []
            number = await worker.run(is_done=is_done, on_start=on_start)
            self._unsettled = worker.unsettled
            self._unsubmitted = sorted(worker.unsubmitted.values())
            return number

    @property
    def unsettled(self) -> int:
        """How many creates the last `work` left on the wire, as a second signal cut it off.

        The next worker looks for them.
        """
        return self._unsettled

    @property
    def unsubmitted(self) -> list[str]:
        """The runs of schedules that the last `work` could not submit, or not wholly: their names.

        The log says why. A worker goes on with each but where it would fail again, as where a run
        of its name has other options.
        """
        return self._unsubmitted

    async def _end_of(self, until_done: bool | str, worker: Worker) -> IsDone | None:
        """What tells whether the work is done; None if it never is."""
        if until_done is False:
            return None
        if until_done is True:
            engine = await self._open()

            async def is_idle() -> bool:
                # A night has its servers read before they wait, and is told once they have ended.
                # One whose servers cannot be read is left to the next worker.
                nights = await self._database.run(
                    partial(engine.has_nights, besides=worker.unsubmitted.keys())
                )
                return not nights and await self._store.is_idle()

            return is_idle
        run = await self._find(until_done)

        async def is_over() -> bool:
            return (await self._store.progress(run)).is_over

        return is_over

    # --- Look ------------------------------------------------------------------------------------

    async def runs(self) -> list[RunInfo]:
        """All runs of the database, in the order of their submission."""
        await self._open()
        return await self._store.all_runs()

    async def progress(self, run: str) -> RunProgress:
        """How many servers of the run are how far; raises `RunError` if there is no such run."""
        return await self._store.progress(await self._find(run))

    async def results(self, run: str) -> AsyncIterator[RunOutcome]:
        """The outcomes that the run has so far, in the order of the servers' ids.

        Raises `RunError` if there is no such run.
        """
        found = await self._find(run)
        after = -1
        while outcomes := await self._store.outcomes(found, after, _BATCH):
            for outcome in outcomes:
                yield outcome
            after = outcomes[-1].server_id

    async def silent_workers(self) -> list[SilentWorker]:
        """The workers that were killed, or are stuck and may hold servers; see `SilentWorker`.

        Others take over from a killed one at once, and from a stuck one after half a minute.
        """
        await self._open()
        return await silent_workers(self._database)

    # --- Change ----------------------------------------------------------------------------------

    async def retry(
        self, run: str, only: Literal["failed", "unknown", "cancelled"] = "failed"
    ) -> int:
        """Let the servers that ended so be worked on once more; how many.

        Each gets a new backup, but for two: one that was started and is not known to have failed
        is gone on with, be it that its wait timed out, that no list showed it, or none any longer,
        or that a rotation deleted nothing after it; and where it is unknown whether there is a
        backup, the server is looked at for that one. A create that may have been carried out is not
        sent again by a retry either: after a timeout or a 504 a retry only looks, and what stays
        unknown ends so again, with `candidates`. After a cut connection or a 503, and where lists
        do not show a backup that was started for another minute, another create is sent once looks
        over `Limits.create_again_after` have shown nothing. So it is where `ensure` found a backup
        that is gone since, unless another recent one is there.

        Raises `RunError` if there is no such run, `ValueError` for another word;
        `ConfigurationError` as `submit` does.
        """
        if only not in {"failed", "unknown", "cancelled"}:
            raise ValueError(f"only must be 'failed', 'unknown' or 'cancelled', not {only!r}")
        found, engine = await self._find(run), await self._open()
        await self._check_account()
        count, after = 0, -1
        # In the order of ids, so that what fails again meanwhile is not taken a second time.
        while some := await self._store.retry(found, ItemState(only), after, engine.enqueue):
            count, after = count + len(some), max(some)
        return count

    async def cancel(self, run: str) -> int:
        """Cancel the servers of the run that still wait, for their turn too; how many.

        A backup that was started goes on, for the API has no way to stop one, and is waited for. A
        create whose turn was given is not counted: its worker cancels it, and may still send it if
        that turn comes within about a fifth of a second. A rotation begins no further deletion: it
        is `CANCELLED` where there was one to be made, also after its backup, with what it deleted
        before; one with `make_room` that was begun still makes its backup. What waits for a retry
        and may have a backup ends again as it had: `UNKNOWN`, or as a timeout.

        Raises `RunError` if there is no such run; `ConfigurationError` as `submit` does.
        """
        found, engine = await self._find(run), await self._open()
        await self._check_account()
        count = 0
        while True:
            cancelled, entries = await self._store.cancel(found)
            if not cancelled:
                return count
            if entries:
                await self._database.call(partial(engine.cancel, entries))
            count += cancelled

    async def forget(self, run: str) -> None:
        """Delete all that the database has of a run that is over; its backups stay.

        Its name may be used again: a new run never takes a backup of an old one for its own. If it
        is cut off, the run is forgotten, and the next `forget` deletes what is left of it.

        Raises `RunError` if there is no such run, or if it is not over; `ConfigurationError` as
        `submit` does.
        """
        check_run(run)
        engine = await self._open()
        await self._check_account()
        await self._delete_forgotten(engine)
        await self._delete(engine, await self._store.forget(run))

    async def _delete_forgotten(self, engine: EngineClient) -> None:
        """Delete what was left of runs as a `forget` was cut off."""
        for nonce in await self._store.forgotten():
            await self._delete(engine, nonce)

    async def _delete(self, engine: EngineClient, nonce: str) -> None:
        while entries := await self._store.some_entries(nonce):
            await self._database.call(partial(engine.delete, entries))
            await self._store.delete(nonce, entries)
        await self._store.delete(nonce, ())

    async def forget_older_than(self, age: timedelta) -> list[str]:
        """Forget the runs that are over and were submitted so long ago; their names.

        Raises `ValueError` for an age that is none; `ConfigurationError` as `submit` does.
        """
        check_duration("age", age)
        engine = await self._open()
        await self._check_account()
        await self._delete_forgotten(engine)
        until = datetime.now(UTC) - age
        forgotten = []
        for info in await self.runs():
            if info.submitted_at <= until:
                with suppress(RunError):  # it is not over, or somebody else forgot it
                    await self._delete(engine, await self._store.forget(info.run))
                    forgotten.append(info.run)
        return forgotten

    async def _check_account(self) -> None:
        """Raise `ConfigurationError` for another account, where there is a token or a name."""
        await check(self._database, self._options, self._account)

    # --- Life ------------------------------------------------------------------------------------

    async def _find(self, run: str) -> Run:
        check_run(run)
        await self._open()
        return await self._store.find(run)

    async def _open(self) -> EngineClient:
        """The engine of the database, whose tables are made first where they are not there."""
        async with self._opening:
            if self._engine is None:
                self._engine = await self._database.call(self._prepared)
            return self._engine

    def _prepared(self) -> EngineClient:
        database = self._database
        with database.preparing():
            create_tables(database)
            migrate(database)
        return EngineClient(database)

    async def close(self) -> None:
        """Let go of the database; a closed fleet cannot be used again."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await self._database.call(engine.close)
        self._database.close()

    async def __aenter__(self) -> Self:
        self._database.check_open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which also ends before a `CancelledError` leaves, unless one follows.

    What a thread has begun in the database goes on in any case, and would be seen later otherwise.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # so that it is not told of as one that nobody saw
        raise
