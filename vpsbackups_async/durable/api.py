"""The client of a worker: one for all that it works on, with one hub for all of its waits."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from attrs import evolve

from vpsbackups_async._creating.looks import Look, Looks
from vpsbackups_async._lists.sources import Servers, read_servers
from vpsbackups_async._pruning.pruner import Deleting, Pruner
from vpsbackups_async._pruning.rotation import RotateOptions
from vpsbackups_async._pruning.rotator import Create, Rotator
from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._wire import Mask
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import ApiError
from vpsbackups_async.models import Backup, BackupType

__all__ = ["WorkerClient"]

Noting: TypeAlias = Callable[[Deleting], Deleting]
"""Makes of what deletes backups something that notes each before."""
Saw: TypeAlias = Callable[[Look], object]
"""Called with each look that a rotation takes."""


class WorkerClient(BackupsClient):
    """A client that never sends a create of unknown outcome again by itself: the guard decides."""

    def __init__(self, token: str | None = None, **options: Any) -> None:
        retry = options.pop("retry", RetryPolicy())
        if isinstance(retry, RetryPolicy):
            retry = evolve(retry, create_again_after=None)
        super().__init__(token, retry=retry, **options)

    @property
    def mask(self) -> Mask:
        """What masks the secrets of this client in a text of the server's."""
        return self._session.mask

    @property
    def attempt_seconds(self) -> float:
        """For how many seconds after its start a request may be on the wire."""
        return self._timeouts.attempt

    async def begin(
        self,
        server_id: int,
        description: str | None,
        marker: str,
        *,
        is_too_late: Callable[[], bool],
        before_again: Callable[[], Awaitable[object]] | None = None,
    ) -> Backup:
        """The new backup, as `create` gives it; with a marker that no backup can have yet.

        `before_again` is awaited before it is sent again after a 503. Raises
        `DeadlineExceededError` if `is_too_late` stops it, and what `create` raises;
        `CreateOutcomeUnknownError` as soon as there is no answer, or one that leaves the outcome
        open: the caller looks for the backup, once it has noted that.
        """
        return await self._creator.create(
            server_id,
            description,
            marker=marker,
            is_new=True,
            looks_after=False,
            is_too_late=is_too_late,
            before_again=before_again,
        )

    async def look(self, server_id: int) -> Look:
        """The manual backups of a server as one read of its list shows them."""
        return await self._looks().look(server_id)

    def is_given(self, backup_id: int) -> bool:
        """Whether a create of this client was given this backup."""
        return self._shared.known.is_given(backup_id)

    def adopt(self, backup: Backup) -> None:
        """Take the backup for that of a create without an answer; it is told of as an event."""
        self._creator.adopt(backup)

    def rotator(
        self, options: RotateOptions, create: Create, *, noting: Noting, saw: Saw
    ) -> Rotator:
        """What rotates a server, with its backup made by `create`.

        Each deletion is noted first, and each look is told to `saw`.
        """
        looks = _ToldLooks(self._finder, self._shared.known, self._timeouts.attempt)
        looks.saw = saw
        pruner = Pruner(looks, noting(self._deleting), self._session.monitor)
        return Rotator(options, pruner, create, self.wait)

    async def server_ids(self, servers: Servers) -> list[int]:
        """The ids of the servers; those of the account for `ALL_SERVERS`."""
        return list(await read_servers(servers, self._lists))

    async def account_name(self) -> str | None:
        """The e-mail address of the token's account; None where the API does not tell it."""
        try:
            account = await self.account()
        except ApiError as error:
            if error.status in {403, 404}:
                return None
            raise
        return account.email or None


class _ToldLooks(Looks):
    """Looks that are told to `saw`."""

    saw: Saw

    async def look(self, server_id: int, kind: BackupType | None = BackupType.MANUAL) -> Look:
        look = await super().look(server_id, kind)
        self.saw(look)
        return look
