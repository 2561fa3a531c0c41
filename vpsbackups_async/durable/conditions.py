"""In SQL: what is known of the servers of a run, and what a retry of theirs begins with."""

from typing import Any

import sqlalchemy as sa

from vpsbackups_async.durable.items import Run
from vpsbackups_async.durable.schema import items
from vpsbackups_async.durable.values import ItemState, acts_before_create
from vpsbackups_async.errors import BackupFailedError

__all__ = ["fresh", "made_nothing", "waits", "was_cut_short"]


def waits(run: Run) -> sa.ColumnElement[bool]:
    """Whether nothing was begun for a server of the run, also if a worker has taken it.

    Of a rotation with `make_room`, only what no worker has taken: it deletes before it creates. Any
    other one that has begun to delete is ended by its worker, which learns what that came to.
    """
    waiting = items.c.state == str(ItemState.WAITING)
    if acts_before_create(run.task):
        return waiting
    taken = items.c.state == str(ItemState.RUNNING)
    begun = (items.c.posts == 0, items.c.backup.is_(None), items.c.deletions.is_(None))
    return sa.or_(waiting, sa.and_(taken, *begun))


def was_cut_short() -> sa.ColumnElement[bool]:
    """Whether an item has a backup, and ended before as cancelled: there was more to delete."""
    return items.c.backup.is_not(None) & items.c.error.is_(None)


def made_nothing() -> sa.ColumnElement[bool]:
    """Whether an item that has ended is known to have no backup that may still be completed."""
    has_failed = items.c.state == str(ItemState.FAILED)
    was_cancelled = items.c.state == str(ItemState.CANCELLED)
    nothing_sent = items.c.backup.is_(None) & ~_is_open()
    is_only_one = (items.c.posts <= 1) & (items.c.unknown_since == items.c.retry)
    return (has_failed | was_cancelled) & nothing_sent | _backup_failed() & is_only_one


def _backup_failed() -> sa.ColumnElement[bool]:
    """Whether an item ended with a backup that failed; other creates may have made another one."""
    has_failed = items.c.state == str(ItemState.FAILED)
    return has_failed & (items.c.error == BackupFailedError.__name__)


def _is_open() -> sa.ColumnElement[bool]:
    """Whether a create of the item may have been carried out; see `Item.is_open`."""
    return (items.c.posts > 0) | (items.c.unknown_since < items.c.retry)


def fresh() -> dict[str, Any]:
    """The values of an item for its next retry: what is known to have made nothing is forgotten.

    A backup that is known, and not to have failed, is gone on from. What may have been sent is
    looked for, and sent again only as after any other takeover.
    """
    is_over = made_nothing()
    # What other creates made, if any did, was there by the time that it failed; it is looked for.
    backup_failed = _backup_failed()
    # Where a create failed that may have been carried out, it was answered, so that none of it is
    # on the wire. It is looked for by its marker before another one is sent.
    is_answered = (items.c.state == str(ItemState.FAILED)) & items.c.backup.is_(None)
    answered = sa.case((is_answered & items.c.may_repeat, 0), else_=items.c.posts)
    values = {
        items.c.backup: sa.null(),
        items.c.sent_at: sa.null(),
        items.c.not_after: sa.null(),
        items.c.may_repeat: sa.true(),
    }
    kept = {
        column.name: sa.case((is_over | backup_failed, value), else_=column)
        for column, value in values.items()
    }
    own = sa.case((is_over | ~_is_open(), items.c.retry + 1), else_=items.c.unknown_since)
    posts = sa.case((is_over | backup_failed, 0), else_=answered)
    return kept | {items.c.unknown_since.name: own, items.c.posts.name: posts}
