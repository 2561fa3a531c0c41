"""The verbs over many servers at once."""

from collections.abc import AsyncGenerator, Callable, Sized
from contextlib import aclosing
from datetime import date, datetime, timedelta
from functools import partial
from typing import Literal

from vpsbackups_async._bulk.fan_out import FanOut, OnError
from vpsbackups_async._bulk.meter import Meter, OnProgress
from vpsbackups_async._bulk.source import Source
from vpsbackups_async._checks import check_description, check_int
from vpsbackups_async._creating.creation import IfRunning, check_if_running
from vpsbackups_async._creating.ensuring import windows_of
from vpsbackups_async._lists.lists import Lists
from vpsbackups_async._lists.servers import ServersReader
from vpsbackups_async._lists.sources import Servers, check_servers, open_servers
from vpsbackups_async._pruning.rotation import RotateOptions, Rotation, Verify
from vpsbackups_async._pruning.rotator import Rotator
from vpsbackups_async._tags import check_marker, with_labels
from vpsbackups_async._verbs import Verbs, refuses_all, waiting
from vpsbackups_async._wire import check_backup_type
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.errors import FleetError
from vpsbackups_async.models import AllServers, Backup, BackupType, Outcome
from vpsbackups_async.retention import Retention

__all__ = ["Fleet"]

DEFAULT_CONCURRENCY = 64


class Fleet:
    """Many servers, `concurrency` of them at a time; made by `BackupsClient.fleet`.

    That many are read, or are having a backup started; a wait for a backup takes no place.

    `server_ids` is any iterable or async iterable of ids or `Server` values. It is read lazily, so
    a million ids are fine; an iterator serves one verb once. An id out of range fails as an item of
    its own and does not stop the rest; a server named twice is served twice.

    `ALL_SERVERS` is every server of the account, and a stream of `BackupsClient.servers` those that
    it lists. Each verb reads that list anew, and again if it moves meanwhile. After the outcomes of
    all servers that were seen, `PaginationError` is raised if it was never complete, and
    `ConfigurationError` if it has none; other errors of the list end it likewise.

    After the first 401 nothing more is sent: running items end, and the other servers are not
    attempted (`NotAttemptedError`). A 403 fails its own server only.
    """

    def __init__(
        self,
        client: Verbs,
        server_ids: Servers,
        *,
        concurrency: int | None = None,
        lists: Lists,
        rotator: Callable[[RotateOptions], Rotator],
    ) -> None:
        if concurrency is not None:
            check_int("concurrency", concurrency)
        check_servers(server_ids)
        self._client = client
        self._server_ids = server_ids
        self._concurrency = concurrency or DEFAULT_CONCURRENCY
        self._lists = lists
        self._rotator = rotator

    def __repr__(self) -> str:
        ids = self._server_ids
        servers = f"{len(ids)} servers" if isinstance(ids, Sized) else "servers"
        servers = repr(ids) if isinstance(ids, AllServers) else servers
        return f"<Fleet of {servers}, concurrency={self._concurrency}>"

    def _source(self) -> Source[int]:
        """The ids of the servers, read lazily."""
        return open_servers(self._server_ids, self._lists)

    def list(
        self,
        *,
        backup_type: Literal["manual", "automatic"] | BackupType | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Backup]:
        """The backups of all servers as they come; a server named twice gives its backups twice.

        If the whole list has fewer pages than there are servers, it is read instead of each
        server's list, and filtered here. One request tells its length, and up to 4,096 ids are read
        ahead to compare (for up to a second, if they take time to come). The backups come in the
        list's order then, and a server that does not exist has none; otherwise the backups of a
        server come together. If the whole list cannot be read, or changes each of three times that
        it is read, each server's list is read after all, without the backups given before.

        A server that fails does not stop the others: `FleetError` with all failures is raised at
        the end, after all backups that could be read, those of failing servers included. After a
        401 the failures name up to a million servers that were not attempted.

        `on_progress` is called with a `Progress`, in servers, at most four times a second and at
        the end; what it raises is logged. While the whole list is read, servers count as done in
        proportion to the pages; if it must be read again, they count from zero again.

        Raises `ValueError` for an unknown `backup_type`.
        """
        kind = None if backup_type is None else check_backup_type(backup_type)
        meter = Meter(on_progress, self._server_ids)
        reader = ServersReader(self._lists, kind, self._source(), self._concurrency, meter)
        return _flat(reader)

    def create(
        self,
        *,
        description: str | None = None,
        wait: bool = False,
        backoff: Backoff | None = None,
        timeout: float | None = 3600.0,
        max_running: int | None = None,
        if_running: IfRunning = "raise",
        marker: bool | str = False,
        keep: bool | date | None = None,
        job: str | None = None,
        on_error: OnError = "collect",
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[int, Backup]]:
        """One outcome for each server: its new backup, completed if `wait`, or the error.

        `concurrency` bounds how many creates are under way at once. With `wait`, a server takes no
        place among them once its backup was started, so any number of backups may run at the same
        time; `max_running` bounds how many are being started or waited for (one whose wait timed
        out no longer counts, though it may still run). `backoff` and `timeout` (seconds) are those
        of `BackupsClient.wait`. The error of a failed wait has the id of the started backup: a
        `WaitError` in its `ref`, any other (a refused token, say) in a note.

        The ids are read as places become free, and nothing is started while your code works on an
        outcome, or while `concurrency` outcomes are unread. The backups that run then are still
        waited for, so that at most their outcomes come on top of these.

        `if_running`, `marker`, `keep` and `job` are those of `BackupsClient.create`, for each
        server. With "wait", `timeout` also bounds the wait for a backup that runs there already,
        during which the server takes no place either; the `WaitTimeoutError` of that wait has the
        ref of that backup.

        With `on_error="stop"` nothing is started after the first failure, and after a 401 in any
        case: running items are finished, and the other servers end as `NotAttemptedError` whose
        `__cause__` is that failure. The ids are still read to their end; if they have none, leave
        the loop. `on_progress` is called with a `Progress` at most four times a second and at the
        end; its `running` counts the backups that are waited for as well. What it raises is logged.

        Raises `ValueError` for bad arguments, before anything is started.
        """
        check_description(description)
        check_if_running(if_running)
        if not isinstance(marker, bool):
            check_marker(marker)
        with_labels(description, keep=keep, job=job)  # refuses labels that cannot be
        waits = wait or if_running == "wait"
        follow = waiting(self._client, wait, backoff, timeout, max_running, waits=waits)
        return FanOut(
            partial(
                self._client.create,
                description=description,
                if_running=if_running,
                timeout=timeout if if_running == "wait" else None,
                marker=marker,
                keep=keep,
                job=job,
            ),
            self._source(),
            self._concurrency,
            Meter(on_progress, self._server_ids),
            on_error=on_error,
            follow=follow,
            max_running=max_running,
            halts=refuses_all,
            leaves_places=True,
        ).outcomes()

    def ensure(
        self,
        *,
        within: timedelta | datetime,
        description: str | None = None,
        running_within: timedelta = timedelta(hours=6),
        wait: bool = False,
        backoff: Backoff | None = None,
        timeout: float | None = 3600.0,
        max_running: int | None = None,
        on_error: OnError = "collect",
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[int, Backup]]:
        """One outcome for each server: a recent backup, there already or new, or the error.

        `within`, `description` and `running_within` are those of `BackupsClient.ensure`; the rest
        is as for `create`. Without `wait` the backups may still run.

        Raises `ValueError` for bad arguments, before anything is started.
        """
        check_description(description)
        windows_of(within, running_within)
        follow = waiting(self._client, wait, backoff, timeout, max_running, waits=wait)
        return FanOut(
            partial(
                self._client.ensure,
                within=within,
                description=description,
                running_within=running_within,
            ),
            self._source(),
            self._concurrency,
            Meter(on_progress, self._server_ids),
            on_error=on_error,
            follow=follow,
            max_running=max_running,
            halts=refuses_all,
        ).outcomes()

    def rotate(
        self,
        retention: Retention,
        *,
        description: str | None = None,
        make_room: bool = False,
        verify: Verify | None = None,
        timeout: float | None = 3600.0,
        backoff: Backoff | None = None,
        dry_run: bool = False,
        max_running: int | None = None,
        on_error: OnError = "collect",
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[int, Rotation]]:
        """One outcome for each server: what its rotation did, or the error.

        The arguments are those of `BackupsClient.rotate` and `create`. Each server is on its own:
        one that fails, or on which a limit is exceeded, does not stop the others. As with
        `create(wait=True)`, a server takes no place once its backup was started.

        Raises `ValueError` for bad arguments, before anything is started.
        """
        options = RotateOptions(
            retention=retention,
            description=description,
            make_room=make_room,
            verify=verify,
            timeout=timeout,
            backoff=backoff,
            dry_run=dry_run,
        )
        if max_running is not None:
            check_int("max_running", max_running)
        rotator = self._rotator(options)
        return FanOut(
            rotator.begin,
            self._source(),
            self._concurrency,
            Meter(on_progress, self._server_ids),
            on_error=on_error,
            follow=rotator.finish,
            max_running=max_running,
            halts=refuses_all,
        ).outcomes()


async def _flat(reader: ServersReader) -> AsyncGenerator[Backup]:
    """The backups one by one; raises `FleetError` at the end if a server failed."""
    async with aclosing(reader.backups()) as batches:
        async for batch in batches:
            for backup in batch:
                yield backup
    if reader.failures:
        raise FleetError(reader.failures) from reader.refusal
