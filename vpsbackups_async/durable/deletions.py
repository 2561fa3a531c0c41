"""The deletions of a rotation: noted before they are sent, and none once the run is cancelled."""

from typing import Final

from vpsbackups_async._creating.looks import Look
from vpsbackups_async._pruning.pruner import Delete, Deleting
from vpsbackups_async._pruning.watched import is_gone
from vpsbackups_async._transport.calls import BeforeAgain
from vpsbackups_async.durable.items import Item, Items, RunCancelledError
from vpsbackups_async.errors import ApiError, VPSBackupsError

__all__ = ["Deletions"]

_NO_MORE: Final = "no further attempt: the run was cancelled"


class Deletions:
    """Notes the deletions of an item, and by looks at its server which of them are carried out.

    `were_stopped` is whether one was not sent, or not tried again, as the run was cancelled.
    """

    def __init__(self, items: Items, item: Item) -> None:
        self._items = items
        self._item = item
        self.were_stopped: bool = False

    def noted(self, deleting: Deleting) -> Deleting:
        """What deletes like `deleting`, and notes each deletion before, for the next worker."""

        def noting(before_again: BeforeAgain) -> Delete:
            async def check(error: VPSBackupsError) -> None:
                await self._check_cancelled(error)
                await before_again(error)

            delete = deleting(check)

            async def noted(backup_id: int) -> None:
                await self._delete(delete, backup_id)

            return noted

        return noting

    async def _delete(self, delete: Delete, backup_id: int) -> None:
        """Delete the backup; raises `RunCancelledError` and what `delete` raises."""
        item = self._item
        was_in_doubt = backup_id in item.in_doubt
        try:
            await self._items.begin_deletion(item, backup_id)
        except RunCancelledError:  # the pruner tells of the first deletion that failed, only
            self.were_stopped = True
            raise
        try:
            await delete(backup_id)
        except VPSBackupsError as error:
            if is_gone(error):
                item.has_deleted(backup_id)
            elif not (was_in_doubt or _may_be_done(error)):
                item.in_doubt -= {backup_id}
                await self._items.note_deletions(item)
            raise
        item.has_deleted(backup_id)

    async def _check_cancelled(self, error: VPSBackupsError) -> None:
        """Raise the error, with a note, if the run was cancelled."""
        if self._item.run.nonce in await self._items.cancelled_runs():
            self.were_stopped = True
            error.add_note(_NO_MORE)
            raise error

    def saw(self, look: Look) -> None:
        """Go by this look at the item's server, if it is complete.

        What it does not show is gone. What was said to be deleted and is shown may still go: the
        answer came too early, or the list lags, and then a later look tells.
        """
        if not look.complete:
            return
        item, listed = self._item, {one.id for one in look.backups}
        gone, back = item.in_doubt - listed, item.deleted & listed
        item.deleted = item.deleted - back | gone
        item.in_doubt = item.in_doubt - gone | back


def _may_be_done(error: VPSBackupsError) -> bool:
    """Whether a deletion that failed so may be carried out: also if a proxy may have answered."""
    return error.in_doubt or (isinstance(error, ApiError) and not error.from_api)
