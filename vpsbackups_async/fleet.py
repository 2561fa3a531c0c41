"""The verbs over many servers at once."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Literal, Protocol

from vpsbackups_async._bulk.fan_out import FanOut, OnError
from vpsbackups_async._bulk.meter import Meter, OnProgress
from vpsbackups_async._bulk.source import open_source
from vpsbackups_async._checks import check_callable, check_int, check_number
from vpsbackups_async._lists.lists import Lists
from vpsbackups_async._lists.servers import ServersReader
from vpsbackups_async._wire import check_backup_type
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.errors import (
    AuthenticationError,
    FleetError,
    VPSBackupsError,
    WaitError,
)
from vpsbackups_async.models import Backup, BackupType, Outcome

__all__ = ["Fleet"]

DEFAULT_CONCURRENCY = 64


class Verbs(Protocol):
    """What a fleet needs of a client."""

    async def create(self, server_id: int, *, description: str | None = None) -> Backup: ...

    async def wait(
        self, backup: Backup, *, backoff: Backoff | None = None, timeout: float | None = 3600.0
    ) -> Backup: ...


class Fleet:
    """Many servers, `concurrency` of them at a time; made by `BackupsClient.fleet`.

    `server_ids` is any iterable or async iterable and read lazily, so that a million is fine; one
    that can be iterated once serves one verb once. An id that cannot be one is the outcome of its
    own item and does not stop the rest; a server named twice is served twice.

    After the first 401 nothing more is sent: what runs ends, and the rest of the servers are not
    attempted (`NotAttemptedError`). A 403 is a matter of its own server and stops nothing.
    """

    def __init__(
        self,
        client: Verbs,
        server_ids: Iterable[int] | AsyncIterable[int],
        *,
        concurrency: int | None = None,
        lists: Lists,
    ) -> None:
        if concurrency is not None:
            check_int("concurrency", concurrency)
        if not isinstance(server_ids, Iterable | AsyncIterable):
            raise ValueError(f"server_ids must be iterable, not {server_ids!r}")
        self._client = client
        self._server_ids = server_ids
        self._concurrency = concurrency or DEFAULT_CONCURRENCY
        self._lists = lists

    def list(
        self,
        *,
        backup_type: Literal["manual", "automatic"] | BackupType | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Backup]:
        """The backups of all servers as they come; a server named twice gives its backups twice.

        Where the whole list has fewer pages than there are servers, it is read instead and filtered
        here: one request tells its length, and up to 4,096 ids are read ahead to see (for up to a
        second, where they take time to come). If that reading fails, or the list moves three times
        while it is read, each server is asked after all, and gives what has not come before. In
        this way the backups come in the list's order, and a server that is not there has none; in
        the other those of one server come together.

        A server that fails does not stop the rest: `FleetError` with all failures is raised at the
        end, when everything else was handed out, what a failing server gave before included. After
        a 401 the failures name up to a million servers that were not attempted.

        `on_progress` is called with a `Progress`, in servers, at most four times a second and at
        the end. While the whole list is read, the servers count as done in proportion to it; that
        goes back if it must be read again.

        Raises `ValueError` for an unknown `backup_type`.
        """
        kind = None if backup_type is None else check_backup_type(backup_type)
        meter = Meter(on_progress, self._server_ids)
        source = open_source(self._server_ids)
        return _flat(ServersReader(self._lists, kind, source, self._concurrency, meter))

    def create(
        self,
        *,
        description: str | None = None,
        wait: bool = False,
        backoff: Backoff | None = None,
        timeout: float | None = 3600.0,
        on_error: OnError = "collect",
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[int, Backup]]:
        """Start a backup of every server, and wait for its end if `wait`; one outcome each.

        The outcomes come as they end. With `wait` a server keeps its place among the `concurrency`
        at a time until its backup is completed; `backoff` and `timeout` (seconds) are those of
        `BackupsClient.wait`. An outcome whose error is a `WaitError` has the id of the backup that
        was started in its `ref`; another error of a wait (a refused token, say) has it in a note.

        With `on_error="stop"` nothing is started after the first failure, as after a 401 in any
        case: what runs is finished, and the rest of the servers are `NotAttemptedError` outcomes,
        whose `__cause__` is that failure. The ids are still read to their end; where they have
        none, leave the loop. `on_progress` is called with a `Progress` at most four times a second
        and at the end; what it raises is logged.

        Raises `ValueError` for bad arguments, before anything is started.
        """
        if not isinstance(description, str | None):
            raise ValueError(f"description must be a str or None, not {description!r}")
        if backoff is not None:
            check_callable("backoff", backoff)
        if timeout is not None:
            check_number("timeout", timeout)

        async def work(server_id: int) -> Backup:
            try:
                backup = await self._client.create(server_id, description=description)
                return await self._completed(backup, backoff, timeout) if wait else backup
            except VPSBackupsError as error:
                if _refuses_all(error):
                    run.halt(error)
                raise

        meter = Meter(on_progress, self._server_ids)
        source = open_source(self._server_ids)
        run = FanOut(work, source, self._concurrency, meter, on_error=on_error)
        return run.outcomes()

    async def _completed(
        self, backup: Backup, backoff: Backoff | None, timeout: float | None
    ) -> Backup:
        try:
            return await self._client.wait(backup, backoff=backoff, timeout=timeout)
        except Exception as error:
            if not isinstance(error, WaitError):
                error.add_note(f"backup {backup.id} of server {backup.server.id} was started")
            raise


def _refuses_all(error: VPSBackupsError) -> bool:
    """Whether the token is no good; a create whose answer was lost tells so in its cause."""
    return isinstance(error, AuthenticationError) or isinstance(
        error.__cause__, AuthenticationError
    )


async def _flat(reader: ServersReader) -> AsyncGenerator[Backup]:
    """The backups one by one; raises `FleetError` at the end if a server failed."""
    async with aclosing(reader.backups()) as batches:
        async for batch in batches:
            for backup in batch:
                yield backup
    if reader.failures:
        raise FleetError(reader.failures) from reader.refusal
