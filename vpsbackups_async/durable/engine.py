"""The workflow engine behind durable runs, DBOS Transact; the only module that imports it.

It keeps the queue of what is to be done, hands each entry to one worker at a time, bounds how many
start, and hands out again what a worker left behind. What was done is in our own tables.
"""

import asyncio
import logging
import math
import re
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from croniter import CroniterBadDateError, CroniterError, croniter
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions
from dbos import error as engine_error

from vpsbackups_async.durable.database import SCHEMA, Database
from vpsbackups_async.durable.schema import VERSION
from vpsbackups_async.errors import ConfigurationError

__all__ = [
    "EngineClient",
    "EngineWorker",
    "Entry",
    "Night",
    "check_due",
    "is_repeated",
    "is_superseded",
    "migrate",
    "working_on",
]

_APPLICATION: Final = "vpsbackups"
_APP_VERSION: Final = f"vpsbackups-{VERSION}"
"""Only entries of the same version are handed out; by default it would be a hash of the source."""
_WORKFLOW: Final = "vpsbackups.item"
_NIGHT: Final = "vpsbackups.night"
_QUEUE: Final = "vpsbackups"
_RESUMED: Final = "vpsbackups-resumed"
"""Without limits: what was started already does not take another start."""
_AHEAD: Final = 1.5
_POLL: Final = 0.25
_BATCH: Final = 1000
_HOURS: Final = 24
_FIELDS: Final = 5
"""Of a line of cron. The engine takes more, seconds first, and a run is named by its minute."""
_RANDOM: Final = re.compile(r"(?<![a-z])[rh](?![a-z])", re.IGNORECASE)
"""A field of cron that croniter draws at random (R), or by a hash (H)."""
_STOP_WITHIN: Final = 15.0
_AHEAD_BY: Final = 2.0
"""Seconds by which a start lies in the future if the clock was set back since."""
_POLL_SCHEDULES: Final = 1.0
"""Seconds between two looks for schedules that were made meanwhile; a late one misses its time."""
_QUIET: Final = "CRITICAL"
"""The engine logs each moment in which the database is away; we say what follows from it."""

_entries = sa.Table(
    "workflow_status",
    sa.MetaData(schema=SCHEMA),
    sa.Column("workflow_uuid", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("status", sa.Text),
    sa.Column("executor_id", sa.Text),
    sa.Column("queue_name", sa.Text),
    sa.Column("rate_limited", sa.Boolean),
    sa.Column("started_at_epoch_ms", sa.BigInteger),
)
"""A table that the engine documents. Its own functions read all of each row: 25 times as long."""


class Night(NamedTuple):
    """A time at which a schedule is due, and what was given with the schedule.

    `id` is that by which the engine knows it.
    """

    at: datetime
    context: Mapping[str, Any]
    id: str = ""


class _Limiter(TypedDict):
    limit: int
    period: float


class Entry(NamedTuple):
    """One server of a run, and how often it was submitted again."""

    run: str
    server_id: int
    retry: int

    @property
    def id(self) -> str:
        """The id by which the engine knows the entry; never used again, as runs are not."""
        return f"{self.run}-{self.server_id}-{self.retry}"


def migrate(database: Database) -> None:
    """Create the engine's own tables, or bring them to its version."""
    logging.getLogger("dbos").setLevel(_QUIET)
    DBOS.migrate(database.full_url, schema=SCHEMA)


class EngineClient:
    """What may be done from outside a worker; the functions block, and are called in a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._client = DBOSClient(
            system_database_engine=database.engine,
            dbos_system_schema=SCHEMA,
            serializer=DBOSPortableJSONSerializer(),
            application_name=_APPLICATION,
            lazy=True,
        )

    def enqueue(self, connection: sa.Connection, entries: Iterable[Entry]) -> None:
        """Queue the entries within the caller's transaction."""
        for entry in entries:
            options: EnqueueOptions = {
                "workflow_name": _WORKFLOW,
                "queue_name": _QUEUE,
                "workflow_id": entry.id,
                "app_version": _APP_VERSION,
            }
            self._client.enqueue_in_transaction(connection, options, *entry)

    def cancel(self, entries: Sequence[Entry]) -> None:
        """Take the entries off the queue, those that are being worked on excepted."""
        self._client.cancel_workflows([entry.id for entry in entries])

    def delete(self, entries: Sequence[Entry]) -> None:
        """Delete all that the engine keeps of the entries."""
        self._client.delete_workflows([entry.id for entry in entries])

    def left_behind(self, connection: sa.Connection, slots: Iterable[int]) -> set[int]:
        """Those of these slots whose worker has not ended what it began."""
        begun = sa.select(_entries.c.executor_id).where(_entries.c.status == "PENDING")
        found = set(connection.scalars(begun.distinct()))
        return {slot for slot in slots if _executor(slot) in found}

    def begun(self, connection: sa.Connection, slot: int) -> set[str]:
        """The ids of what was handed out to the worker of this slot, and has not ended."""
        begun = sa.select(_entries.c.workflow_uuid).where(_entries.c.status == "PENDING")
        return set(connection.scalars(begun.where(_entries.c.executor_id == _executor(slot))))

    def has_nights(self, connection: sa.Connection, besides: Collection[str] = ()) -> bool:
        """Whether a night waits, or its run is not over and told; but for these."""
        night = sa.select(_entries.c.workflow_uuid).where(_entries.c.name == _NIGHT)
        under_way = night.where(_entries.c.status.in_(("ENQUEUED", "PENDING")))
        return not set(connection.scalars(under_way)).issubset(besides)

    def hand_out_again(self, ids: Collection[str]) -> None:
        """Queue again what was handed out; what is forgotten meanwhile is passed over."""
        left = iter(ids)
        while batch := list(islice(left, _BATCH)):
            # A run that is over may be forgotten at any moment.
            with suppress(engine_error.DBOSNonExistentWorkflowError):
                self._client.resume_workflows(batch, queue_name=_RESUMED)

    def free_started_ahead(self, connection: sa.Connection) -> None:
        """Let starts in the future no longer count for the rate, as after a clock was set back.

        The engine would start nothing until the clock is there again, and has no way to tell it.
        """
        now: sa.ColumnElement[float] = sa.literal_column(self._database.clock)
        is_ahead = sa.and_(
            _entries.c.queue_name == _QUEUE,
            _entries.c.rate_limited.is_(True),
            _entries.c.started_at_epoch_ms > 1000.0 * (now + _AHEAD_BY),
        )
        if connection.scalar(sa.select(_entries.c.workflow_uuid).where(is_ahead).limit(1)):
            connection.execute(sa.update(_entries).where(is_ahead).values(rate_limited=False))

    def add_schedule(self, name: str, cron: str, tz: str, context: Mapping[str, Any]) -> None:
        """Have workers handed the context whenever this line of cron is due in the time zone.

        Raises `ValueError` as `check_due` does, and for a name that is taken.
        """
        check_due(cron, tz)
        if any(one["schedule_name"] == name for one in self._client.list_schedules()):
            raise ValueError(
                f"a schedule is called {name!r} already: delete that one, or take another name"
            )
        try:
            self._client.create_schedule(
                schedule_name=name,
                workflow_name=_NIGHT,
                schedule=cron,
                context=dict(context),
                cron_timezone=tz,
                queue_name=_RESUMED,
            )
        except engine_error.DBOSException:
            raise _no_cron(cron) from None

    def schedules(self) -> list[Mapping[str, Any]]:
        """The contexts of all schedules, by their names."""
        found = sorted(self._client.list_schedules(), key=lambda one: one["schedule_name"])
        return [one["context"] for one in found]

    def delete_schedule(self, name: str) -> bool:
        """Delete a schedule; whether there was one."""
        there = any(one["schedule_name"] == name for one in self._client.list_schedules())
        if there:
            self._client.delete_schedule(name)
        return there

    def catch_up(self) -> None:
        """Hand out the last night of each schedule, if it was missed.

        No worker was there, or the schedule was made just before it.
        """
        now = datetime.now(UTC)
        for one in self._client.list_schedules():
            seen = datetime.fromisoformat(one["last_fired_at"] or one["context"]["since"])
            last = _due(one["schedule"], one["cron_timezone"], now, -1)
            if last > seen:
                self._backfill(one["schedule_name"], last - timedelta(seconds=1), now)

    def _backfill(self, name: str, start: datetime, end: datetime) -> None:
        try:
            self._client.backfill_schedule(name, start, end)
        except engine_error.DBOSException:
            # Another process may have deleted it since it was listed.
            if self._client.get_schedule(name) is not None:
                raise

    def set_limits(self, *, rate: float | None, concurrency: int) -> None:
        """Set how many entries may start a second, and be worked on, over all workers."""
        self._client.register_queue(
            _QUEUE,
            limiter=None if rate is None else _limiter(rate),
            global_concurrency=concurrency,
            polling_interval_sec=_POLL,
        )
        self._client.register_queue(_RESUMED, polling_interval_sec=_POLL)

    def close(self) -> None:
        """Let go of the database."""
        self._client.destroy()


_worked_on: Final[list[Database]] = []


@contextmanager
def working_on(database: Database) -> Iterator[None]:
    """The block in which this process works on a database: the engine is global to a process.

    Raises `ConfigurationError` if it works on another one, whose entries this worker would take.
    """
    for other in _worked_on:
        if other.full_url != database.full_url:
            refused = ConfigurationError(
                f"this process works on {other.name} already, and cannot on {database.name} beside"
            )
            refused.hint = "Work on each in a process of its own, or one after the other"
            raise refused
    _worked_on.append(database)
    try:
        yield
    finally:
        _worked_on.remove(database)


class EngineWorker:
    """Takes entries off the queue and awaits `work` for each, in the event loop of the caller.

    `night` is awaited for each time at which a schedule is due.

    There is one in a process at a time: the engine is global.
    """

    def __init__(
        self,
        database: Database,
        slot: int,
        work: Callable[[Entry], Awaitable[None]],
        night: Callable[[Night], Awaitable[None]],
    ) -> None:
        self._ids: dict[object, str] = {}
        self._dbos = DBOS(
            config={
                "name": _APPLICATION,
                "system_database_url": database.full_url,
                "system_database_engine": database.engine,
                "dbos_system_schema": SCHEMA,
                "executor_id": _executor(slot),
                "application_version": _APP_VERSION,
                "serializer": DBOSPortableJSONSerializer(),
                "log_level": _QUIET,
                "max_executor_threads": 16,
                # It is waited for at the end of a worker.
                "notification_listener_polling_interval_sec": _POLL,
                "scheduler_polling_interval_sec": _POLL_SCHEDULES,
                "run_migrations": False,
            }
        )

        @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
        async def item(run: str, server_id: int, retry: int) -> None:
            with self._counted():
                await work(Entry(run, server_id, retry))

        @DBOS.workflow(name=_NIGHT, max_recovery_attempts=None)
        async def due(at: str, context: dict[str, Any]) -> None:
            with self._counted():
                await night(Night(datetime.fromisoformat(at), context, str(DBOS.workflow_id)))

    @property
    def under_way(self) -> set[str]:
        """The ids of what this process works on."""
        return set(self._ids.values())

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """The block in which the workflow that calls is under way; it may run twice at once."""
        key = object()
        self._ids[key] = str(DBOS.workflow_id)
        try:
            yield
        finally:
            del self._ids[key]

    def start(self) -> None:
        """Begin to take entries; it blocks for a moment, and must be called in the loop."""
        DBOS.launch()  # workflows run in the loop in which it is launched

    def take_no_more(self) -> None:
        """Take no more entries; what is being worked on goes on."""
        for event in self._dbos.background_thread_stop_events:
            event.set()

    async def stop(self) -> None:
        """Leave to other workers what is being worked on, and take no more entries."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def destroy() -> None:
            with suppress(Exception):
                DBOS.destroy(destroy_registry=True)
            with suppress(RuntimeError):  # the loop may be closed by then
                loop.call_soon_threadsafe(ended.set)

        # It may hang while the database is away, and must not hold up the end of the process.
        threading.Thread(target=destroy, name="vpsbackups-stop", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _STOP_WITHIN)
        loop.set_default_executor(ThreadPoolExecutor())  # the engine's own one is shut down


def check_due(cron: str, tz: str) -> None:
    """Raise `ValueError` for a line of cron or a zone that is none, or a line that is never due.

    A line that is due at random is refused: it would be drawn anew each time that it is read, and
    one night would have several runs.
    """
    if not cron.strip().startswith("@") and (fields := len(cron.split())) > _FIELDS:
        raise ValueError(
            f"{cron!r} has {fields} fields, and a line of cron {_FIELDS}: minute, hour, day, "
            "month and weekday"
        )
    if _RANDOM.search(cron):
        raise ValueError(
            f"{cron!r} is due at random: give numbers instead of R and H, as '0 3 * * *' has them"
        )
    try:
        ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{tz!r} is no time zone, as 'Europe/Berlin' is one") from None
    try:
        _due(cron, tz, datetime.now(UTC), 1)
    except CroniterBadDateError:
        raise ValueError(f"{cron!r} is never due") from None
    except CroniterError:
        raise _no_cron(cron) from None


def _no_cron(cron: str) -> ValueError:
    return ValueError(f"{cron!r} is no line of cron, as '0 3 * * *' is one")


def is_superseded(night: Night) -> bool:
    """Whether the schedule was due once more since."""
    context = night.context
    return _due(context["cron"], context["tz"], night.at, 1) <= datetime.now(UTC)


def is_repeated(night: Night) -> bool:
    """Whether the clock was set back since the schedule was due at the same time of that day."""
    return _is_repeat(night.context["cron"], night.context["tz"], night.at)


def _due(cron: str, tz: str | None, when: datetime, step: Literal[-1, 1]) -> datetime:
    """The last (-1) or next time at which a line of cron is due, before or after another."""
    lines = croniter(cron, when.astimezone(ZoneInfo(tz or "UTC")), second_at_beginning=True)
    while True:
        found: datetime = (lines.get_prev if step < 0 else lines.get_next)(datetime)
        if not _is_repeat(cron, tz, found):
            return found


def _is_repeat(cron: str, tz: str | None, when: datetime) -> bool:
    """Whether this is the second time by the clock of the zone on the day it is set back.

    The engine is due at both. What is due each hour is meant to be, as with cron itself.
    """
    hours = croniter.expand(cron, second_at_beginning=True)[0][1]
    if len(hours) == _HOURS or "*" in hours:
        return False
    return when.astimezone(UTC).astimezone(ZoneInfo(tz or "UTC")).fold == 1


def _limiter(rate: float) -> _Limiter:
    """More than the rate, which the turns of creates keep exactly: workers look now and then only.

    Without it, one worker would take all that waits.
    """
    period = max(1.0, 1.0 / rate)
    return {"limit": math.ceil(_AHEAD * rate * period), "period": period}


def _executor(slot: int) -> str:
    return f"slot-{slot}"
