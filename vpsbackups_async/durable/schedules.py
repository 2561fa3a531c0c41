"""Schedules: runs that workers submit by the clock of cron."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen
from sqlalchemy import exc

from vpsbackups_async._ping import check_ping, ping_beside
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.engine import EngineClient, Night, is_repeated, is_superseded
from vpsbackups_async.durable.items import Run
from vpsbackups_async.durable.store import CancelledRunError, Store
from vpsbackups_async.durable.values import RunProgress, Task, task_from_json, task_to_json
from vpsbackups_async.errors import ConfigurationError, DatabaseError, RunError, VPSBackupsError
from vpsbackups_async.models import ALL_SERVERS

__all__ = ["Nights", "Schedule"]

logger: logging.Logger = logging.getLogger("vpsbackups_async")

_BATCH: Final = 500
_EVERY: Final = 2.0
"""Seconds between two looks whether a night is over."""
_PAUSES: Final = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
"""The pauses after which the servers are read again where that failed."""


@frozen
class Schedule:
    """A run that is submitted whenever a line of cron is due in a time zone.

    `servers` are ids; None is every server of the account at that time. `ping` is a URL that is
    told of the start and the end of each run, as healthchecks.io has it. `since` is when the
    schedule was made.
    """

    name: str
    cron: str
    tz: str
    task: Task
    servers: tuple[int, ...] | None
    ping: str | None
    since: datetime

    def to_context(self) -> Mapping[str, Any]:
        """The schedule as values for JSON."""
        return {
            "name": self.name,
            "cron": self.cron,
            "tz": self.tz,
            "task": task_to_json(self.task),
            "servers": None if self.servers is None else list(self.servers),
            "ping": self.ping,
            "since": self.since.isoformat(),
        }

    @classmethod
    def from_context(cls, context: Mapping[str, Any]) -> "Schedule":
        """The schedule that `to_context` wrote; raises `RunError` for one that cannot be read."""
        try:
            servers = context["servers"]
            return cls(
                context["name"],
                context["cron"],
                context["tz"],
                task_from_json(context["task"]),
                None if servers is None else tuple(servers),
                context["ping"],
                datetime.fromisoformat(context["since"]),
            )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            unreadable = RunError(
                f"the schedule {context.get('name')!r} of the database cannot be read: {why}"
            )
            unreadable.hint = (
                "It is damaged, or was made by a newer version of this library: use that one, or "
                "delete it (vpsbackups run schedule --delete --name NAME) and make it anew"
            )
            raise unreadable from None

    def run_at(self, when: datetime) -> str:
        """The name of the run that is due then."""
        return f"{self.name}@{when.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


class Nights:
    """What a worker does when a schedule is due: submits a run, and tells how it ended.

    All of it is safe to repeat, as after a worker was killed. `fail` is called with an error of the
    database that ends the worker.
    """

    def __init__(
        self,
        client: WorkerClient,
        store: Store,
        engine: EngineClient,
        fail: Callable[[Exception], None],
    ) -> None:
        self._client = client
        self._store = store
        self._engine = engine
        self._fail = fail
        self._tasks: set[asyncio.Task[None]] = set()
        self.unsubmitted: dict[str, str] = {}
        """The runs that could not be submitted, or not wholly, by the ids of their nights."""

    async def do(self, night: Night) -> None:
        """Submit the run that is due, unless a later one is due too; return once it is over.

        One whose submit was begun is gone on with in any case, as after its worker was killed. A
        time that comes twice, as the clock is set back, has one run. Cancelled if it is left to
        another worker, or to this one once more.
        """
        if is_repeated(night):
            return
        task = asyncio.create_task(self._do(night), name="vpsbackups-night")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await task

    async def stop(self) -> None:
        """Leave the nights to another worker."""
        left = tuple(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _do(self, night: Night) -> None:
        try:
            schedule = Schedule.from_context(night.context)
        except RunError as error:
            await self._not_read(night, error)
            return
        try:
            await self._done(schedule, night)
        except Exception as error:
            # The engine would take it for the end of this night.
            self._fail(error)
            raise asyncio.CancelledError from error

    async def _done(self, schedule: Schedule, night: Night) -> None:
        name = schedule.run_at(night.at)
        # Beside what follows: a monitor that does not answer holds nothing up.
        starting: set[asyncio.Task[None]] = set()
        is_begun = await self._store.is_begun(name)
        if not is_begun:
            if is_superseded(night):
                return
            start = asyncio.create_task(self._ping(schedule.ping, "/start", name))
            starting.add(start)
            self._tasks.add(start)
            start.add_done_callback(self._tasks.discard)
        try:
            found = await self._found(schedule, name, None if is_begun else night)
        except (VPSBackupsError, exc.SQLAlchemyError) as error:
            await asyncio.gather(*starting)
            await self._not_submitted(schedule, night, error)
            await self._store.end_night(name)
            return
        if found is None:
            return
        self.unsubmitted.pop(night.id, None)
        run = found if isinstance(found, Run) else None
        progress = found if isinstance(found, RunProgress) else await self._over(found)
        await asyncio.gather(*starting)
        await self._tell(schedule, progress, run)
        await self._store.end_night(name)

    async def _found(
        self, schedule: Schedule, name: str, new: Night | None
    ) -> Run | RunProgress | None:
        """The run, submitted or cancelled, or how it had ended if it was forgotten meanwhile.

        None if the `new` night is left out.
        """
        if new is None and (ended := await self._store.forgotten_night(name)):
            return ended
        servers = await self._servers(schedule, new)
        if servers is None:
            return None
        try:
            return await self._submit(schedule, name, servers)
        except CancelledRunError as error:
            return error.run
        except RunError:
            if ended := await self._store.forgotten_night(name):
                return ended
            raise

    async def _not_submitted(self, schedule: Schedule, night: Night, error: Exception) -> None:
        """Tell that the run could not be submitted; cancelled if it may be gone on with."""
        name = schedule.run_at(night.at)
        is_final = isinstance(error, RunError)  # who tries it again gets it again
        ours = error if isinstance(error, VPSBackupsError) else self._store.failed(error)
        said = f"{name}: {ours.describe()}"
        if not is_final:
            said = (
                f"{name} is not wholly submitted: {ours.describe()}; a worker goes on with it "
                "(vpsbackups run work)"
            )
        logger.error("%s", said)
        await self._ping(schedule.ping, "/fail", said)
        self.unsubmitted[night.id] = name  # now that it was told: a worker may end by that
        if ours is not error:
            raise ours
        if not is_final:
            raise asyncio.CancelledError

    async def _not_read(self, night: Night, error: RunError) -> None:
        """Tell of a night whose schedule cannot be read, so that nothing is known of its run."""
        said = f"no run is submitted for {night.at:%Y-%m-%dT%H:%MZ}: {error.describe()}"
        logger.error("%s", said)
        with suppress(ValueError):  # its monitor may be what cannot be read
            await self._ping(night.context.get("ping"), "/fail", said)
        self.unsubmitted[night.id] = str(night.context.get("name"))

    async def _tell(self, schedule: Schedule, progress: RunProgress, run: Run | None) -> None:
        """Tell how the run ended; one that backed up nothing has failed, whatever the reason.

        `run` is None if it was forgotten.
        """
        failed = progress.failed + progress.unknown
        said = f"{progress.run}: {progress.completed:,} completed, {failed:,} failed"
        if progress.cancelled:
            said += f", {progress.cancelled:,} passed over or cancelled"
        is_bad = failed > 0 or not progress.completed or not progress.wholly_submitted
        if not (failed or progress.completed):
            said += f": nothing was backed up{'' if run is None else await self._reason(run)}"
        if not progress.wholly_submitted:
            said += "; it was cancelled or forgotten before it was wholly submitted"
        if is_bad:
            logger.error("%s", said)
        await self._ping(schedule.ping, "/fail" if is_bad else "", said)

    async def _reason(self, run: Run) -> str:
        """Why the first of its servers was passed over, in brackets; empty if it was not."""
        with suppress(VPSBackupsError):
            for one in await self._store.outcomes(run, -1, 1):
                if one.detail:
                    return f" (server {one.server_id}: {one.detail})"
        return ""

    async def _submit(self, schedule: Schedule, name: str, servers: Sequence[int]) -> Run:
        enqueue, store = self._engine.enqueue, self._store
        run = await store.submit_night(name, schedule.task)
        busy = 0
        for start in range(0, len(servers), _BATCH):
            ids = servers[start : start + _BATCH]
            busy += await store.add_free(run, ids, enqueue)
        await store.add(run, (), enqueue, whole=True, keep_trying=True)
        if busy:
            logger.warning(
                "%s: %s servers are passed over, for other runs work on them", name, busy
            )
        return run

    async def _servers(self, schedule: Schedule, new: Night | None) -> Sequence[int] | None:
        """The servers of the schedule, once they can be read; None if the `new` night is late."""
        if schedule.servers is not None:
            return schedule.servers
        for pause in _PAUSES:
            try:
                return await self._client.server_ids(ALL_SERVERS)
            except VPSBackupsError as error:
                logger.warning("the servers cannot be read, and are in %s s: %s", pause, error)
            await asyncio.sleep(pause)
            if new is not None and is_superseded(new):
                logger.warning("%s is left out, as the next one is due", schedule.run_at(new.at))
                return None
        return await self._client.server_ids(ALL_SERVERS)

    async def _over(self, run: Run) -> RunProgress:
        """The progress of the run once it is over."""
        while True:
            # The database is away, and may be back; what fails for good ends the worker elsewhere.
            with suppress(ConfigurationError, DatabaseError):
                progress = await self._store.progress(run)
                if progress.is_over:
                    # Of one that is forgotten by now it found nothing.
                    return await self._store.forgotten_night(run.name) or progress
            await asyncio.sleep(_EVERY)

    async def _ping(self, url: str | None, ending: str, text: str) -> None:
        if url is None:
            return
        parts = check_ping(url)
        failure = await ping_beside(parts, ending, text)
        if failure is not None:
            logger.warning("the ping to %s failed: %s", parts.hostname, failure)
