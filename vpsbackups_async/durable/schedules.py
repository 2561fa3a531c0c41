"""Schedules: runs that workers submit by the clock of cron."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from attrs import frozen

from vpsbackups_async._ping import check_ping, ping_beside
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.engine import EngineClient, Night, is_repeated, is_superseded
from vpsbackups_async.durable.items import Run
from vpsbackups_async.durable.store import Store
from vpsbackups_async.durable.values import RunProgress, Task, task_from_json, task_to_json
from vpsbackups_async.errors import ConfigurationError, VPSBackupsError
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
        """The schedule that `to_context` wrote."""
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

    def run_at(self, when: datetime) -> str:
        """The name of the run that is due then."""
        return f"{self.name}@{when.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


class Nights:
    """What a worker does when a schedule is due: submits a run, and tells how it ended.

    All of it is safe to repeat, as after a worker was killed.
    """

    def __init__(self, client: WorkerClient, store: Store, engine: EngineClient) -> None:
        self._client = client
        self._store = store
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, night: Night) -> None:
        """Submit the run that is due, unless a later one is due too; return once it is over.

        One whose submit was begun is gone on with in any case, as after its worker was killed. A
        time that comes twice, as the clock is set back, has one run.
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
        schedule = Schedule.from_context(night.context)
        name = schedule.run_at(night.at)
        # Beside what follows: a monitor that does not answer holds nothing up.
        starting: set[asyncio.Task[None]] = set()
        if not await self._store.is_there(name):
            if is_superseded(night):
                return
            starting.add(asyncio.create_task(self._ping(schedule, "/start", name)))
            self._tasks |= starting
        try:
            run = await self._submit(schedule, name)
        except VPSBackupsError as error:
            logger.error("run %s could not be submitted: %s", name, error)  # noqa: TRY400  # no bug
            end = partial(self._ping, schedule, "/fail", f"{name}: {error.describe()}")
        else:
            end = partial(self._tell, schedule, run, await self._over(run))
        await asyncio.gather(*starting)
        self._tasks -= starting
        await end()

    async def _tell(self, schedule: Schedule, run: Run, progress: RunProgress) -> None:
        """Tell how the run ended; one that backed up nothing has failed, whatever the reason."""
        failed = progress.failed + progress.unknown
        said = f"{run.name}: {progress.completed:,} completed, {failed:,} failed"
        if progress.cancelled:
            said += f", {progress.cancelled:,} passed over or cancelled"
        is_bad = failed > 0 or not progress.completed
        if not (failed or progress.completed):
            said += f": nothing was backed up{await self._reason(run)}"
        if is_bad:
            logger.error("%s", said)
        await self._ping(schedule, "/fail" if is_bad else "", said)

    async def _reason(self, run: Run) -> str:
        """Why the first of its servers was passed over, in brackets; empty if it was not."""
        with suppress(VPSBackupsError):
            for one in await self._store.outcomes(run, -1, 1):
                if one.detail:
                    return f" (server {one.server_id}: {one.detail})"
        return ""

    async def _submit(self, schedule: Schedule, name: str) -> Run:
        servers = await self._servers(schedule)
        enqueue = self._engine.enqueue
        run, _ = await self._store.submit(name, schedule.task, (), enqueue, whole=False)
        busy = 0
        for start in range(0, len(servers), _BATCH):
            ids = servers[start : start + _BATCH]
            busy += await self._store.add_free(run, ids, enqueue)
        await self._store.add(run, (), enqueue, whole=True)
        if busy:
            logger.warning(
                "%s: %s servers are passed over, for other runs work on them", name, busy
            )
        return run

    async def _servers(self, schedule: Schedule) -> Sequence[int]:
        if schedule.servers is not None:
            return schedule.servers
        for pause in _PAUSES:
            try:
                return await self._client.server_ids(ALL_SERVERS)
            except VPSBackupsError as error:
                logger.warning("the servers cannot be read, and are in %s s: %s", pause, error)
            await asyncio.sleep(pause)
        return await self._client.server_ids(ALL_SERVERS)

    async def _over(self, run: Run) -> RunProgress:
        """The progress of the run once it is over."""
        while True:
            with suppress(ConfigurationError):  # the database is away, and may be back
                progress = await self._store.progress(run)
                if progress.is_over:
                    return progress
            await asyncio.sleep(_EVERY)

    async def _ping(self, schedule: Schedule, ending: str, text: str) -> None:
        if schedule.ping is None:
            return
        parts = check_ping(schedule.ping)
        failure = await ping_beside(parts, ending, text)
        if failure is not None:
            logger.warning("the ping to %s failed: %s", parts.hostname, failure)
