"""Backups that were made twice, found by one more look after a create."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from vpsbackups_async._creating.creation import Creation, first_of
from vpsbackups_async._creating.ensuring import Need
from vpsbackups_async._creating.evidence import judge
from vpsbackups_async._creating.looks import Look, Looks
from vpsbackups_async._creating.settling import Search, search
from vpsbackups_async.models import Backup

__all__ = ["first_of_twins", "warn_of_twins"]

logger = logging.getLogger("vpsbackups_async")


async def first_of_twins(
    creation: Creation, need: Need, made: Backup, looks: Looks, *, grace: float
) -> Backup:
    """The first of the backups that were made for the same need in the same moment.

    Other processes may ask for the same. Looks go on until one shows the backup that was made here,
    for `grace` seconds at most: a list that lags shows no other one either.
    """
    found = Search()
    twins = {made.id: made}

    def take(look: Look) -> bool:
        found.looks += 1
        creation.see(look)
        new = {one.id: one for one in look.backups if one.id not in creation.known_ids}
        for backup in new.values():
            if need.fits(backup, creation.now):
                twins[backup.id] = backup
            else:
                twins.pop(backup.id, None)
        return made.id in new

    look = partial(looks.look, creation.server_id)
    await search(found, look, take, grace=grace, end=_end(creation, looks))
    if not found.looks:
        logger.info("backup %s may have a twin: %s", made.id, found.reason)
    return first_of(creation.server_id, twins.values() or [made])


async def warn_of_twins(
    creation: Creation, made: Backup, looks: Looks, is_given: Callable[[int], bool]
) -> None:
    """Log if an earlier request of the same create made a backup after all."""
    try:
        async with asyncio.timeout_at(_end(creation, looks)):
            look = await looks.look(creation.server_id)
    except Exception as error:  # noqa: BLE001  # also what the caller's limiter raises
        logger.debug("no look for twins of backup %s: %s", made.id, error)
        return
    verdict = judge(creation.sent(look), look.backups, is_given)
    twins = [one.id for one in verdict.candidates if one.id != made.id]
    if twins:
        logger.warning(
            "server %s got backup %s, but %s may be of the same create, which was carried out "
            "late: delete one of them if so",
            creation.server_id,
            made.id,
            twins,
        )


def _end(creation: Creation, looks: Looks) -> float:
    """When such looks end, in loop time: with the call, for the backup is there already."""
    return min(creation.end, asyncio.get_running_loop().time() + looks.patience)
