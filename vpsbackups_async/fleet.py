"""The verbs over many servers at once."""

import builtins
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from typing import Protocol

from vpsbackups_async._checks import check_callable, check_int, check_number
from vpsbackups_async._fanout import fan_out
from vpsbackups_async._wire import check_backup_type
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.errors import FleetError, VPSBackupsError, WaitError
from vpsbackups_async.models import Backup, BackupType, Outcome, Page

__all__ = ["Fleet"]

DEFAULT_CONCURRENCY = 64


class Listing(Protocol):
    """What a fleet needs of one server's list."""

    def pages(self) -> AsyncGenerator[Page]: ...


class Verbs(Protocol):
    """What a fleet needs of a client."""

    def list(
        self, *, server_id: int | None = None, backup_type: str | BackupType | None = None
    ) -> Listing: ...

    async def create(self, server_id: int, *, description: str | None = None) -> Backup: ...

    async def wait(
        self, backup: Backup, *, backoff: Backoff | None = None, timeout: float | None = 3600.0
    ) -> Backup: ...


class Fleet:
    """Many servers, `concurrency` of them at a time; made by `BackupsClient.fleet`.

    `server_ids` is any iterable or async iterable and read lazily, so that a million is fine; one
    that can be iterated once serves one verb once. An id that cannot be one is the outcome of its
    own item and does not stop the rest.
    """

    def __init__(
        self,
        client: Verbs,
        server_ids: Iterable[int] | AsyncIterable[int],
        *,
        concurrency: int | None = None,
    ) -> None:
        if concurrency is not None:
            check_int("concurrency", concurrency)
        if not isinstance(server_ids, Iterable | AsyncIterable):
            raise ValueError(f"server_ids must be iterable, not {server_ids!r}")
        self._client = client
        self._server_ids = server_ids
        self._concurrency = concurrency or DEFAULT_CONCURRENCY

    def list(self, *, backup_type: str | BackupType | None = None) -> AsyncGenerator[Backup]:
        """The backups of all servers as they come, those of one server together.

        A server that fails does not stop the rest: `FleetError` with all failures is raised at the
        end, when everything else was handed out, what a failing server gave before included.

        Raises `ValueError` for an unknown `backup_type`.
        """
        return self._list(None if backup_type is None else check_backup_type(backup_type))

    async def _list(self, backup_type: BackupType | None) -> AsyncGenerator[Backup]:
        failures: builtins.list[Outcome[int, builtins.list[Backup]]] = []
        harvests = fan_out(
            lambda server_id: self._harvest(server_id, backup_type),
            self._server_ids,
            concurrency=self._concurrency,
        )
        async with aclosing(harvests):
            async for harvest in harvests:
                backups, error = harvest.value or ((), harvest.error)
                for backup in backups:
                    yield backup
                if error is not None:
                    failures.append(Outcome(harvest.key, error=error))
        if failures:
            raise FleetError(failures)

    async def _harvest(
        self, server_id: int, backup_type: BackupType | None
    ) -> tuple[builtins.list[Backup], Exception | None]:
        """What a server's list gave, and what ended it early."""
        backups: builtins.list[Backup] = []
        try:
            check_int("server_id", server_id)
            stream = self._client.list(server_id=server_id, backup_type=backup_type)
            async with aclosing(stream.pages()) as pages:
                async for page in pages:
                    backups.extend(page.items)
        except (VPSBackupsError, ValueError) as error:
            return backups, error
        return backups, None

    def create(
        self,
        *,
        description: str | None = None,
        wait: bool = False,
        backoff: Backoff | None = None,
        timeout: float | None = 3600.0,
    ) -> AsyncGenerator[Outcome[int, Backup]]:
        """Start a backup of every server, and wait for its end if `wait`; one outcome each.

        The outcomes come as they end. With `wait` a server keeps its place among the `concurrency`
        at a time until its backup is completed; `backoff` and `timeout` (seconds) are those of
        `BackupsClient.wait`. An outcome whose error is a `WaitError` has the id of the backup that
        was started in its `ref`; another error of a wait (a refused token, say) has it in a note.

        Raises `ValueError` for bad arguments, before anything is started.
        """
        if not isinstance(description, str | None):
            raise ValueError(f"description must be a str or None, not {description!r}")
        if backoff is not None:
            check_callable("backoff", backoff)
        if timeout is not None:
            check_number("timeout", timeout)

        async def work(server_id: int) -> Backup:
            backup = await self._client.create(server_id, description=description)
            if not wait:
                return backup
            try:
                return await self._client.wait(backup, backoff=backoff, timeout=timeout)
            except Exception as error:
                if not isinstance(error, WaitError):
                    error.add_note(f"backup {backup.id} of server {server_id} was started")
                raise

        return fan_out(work, self._server_ids, concurrency=self._concurrency)
