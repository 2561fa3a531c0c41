"""Reads what an audit needs: the servers, their complete lists, and the server's clock."""

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from vpsbackups_async._checks import check_duration, check_int
from vpsbackups_async._creating.evidence import clock_offset
from vpsbackups_async._lists.snapshots import Snapshots
from vpsbackups_async._lists.sources import Servers, check_servers, read_servers
from vpsbackups_async._wire import Response, date_of
from vpsbackups_async.audit.coverage import Coverage, cover
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.fleet import DEFAULT_CONCURRENCY
from vpsbackups_async.models import Backup

__all__ = ["audit"]


async def audit(
    client: BackupsClient,
    server_ids: Servers,
    *,
    rpo: timedelta,
    slack: timedelta = timedelta(0),
    stuck_after: timedelta = timedelta(hours=6),
    concurrency: int = DEFAULT_CONCURRENCY,
) -> Coverage:
    """How well each of these servers is covered by backups; reads only.

    `server_ids` are those of `BackupsClient.fleet`; with `ALL_SERVERS`, stopped servers count too.
    `rpo` is how old the newest good backup may be, `slack` how much later it may come unless the
    newest attempt failed, `stuck_after` how long a backup may be in progress. Ages are by the
    clock of the server's `Date` headers, or by this machine's where it sends none.

    The whole list is read where it has fewer pages than there are servers, otherwise each server's
    list, `concurrency` at a time. A server whose list fails, or is never complete, is
    `State.UNKNOWN` and stops no other.

    Raises `AuthenticationError` if the token is refused, what reading the list of servers raises
    (`PaginationError` if it was never complete), and `ValueError` for bad arguments.
    """
    check_duration("rpo", rpo)
    check_duration("stuck_after", stuck_after)
    if not isinstance(slack, timedelta) or slack < timedelta(0):
        raise ValueError(f"slack must be a timedelta of zero or more, not {slack!r}")
    check_int("concurrency", concurrency)
    check_servers(server_ids)
    clock, lists = _ServerClock(), client._lists  # noqa: SLF001  # as the client's fleets read them
    servers = await read_servers(server_ids, lists)
    snapshots = Snapshots(
        lists,
        tuple(servers),
        concurrency=concurrency,
        on_response=clock.note,
    )
    held: dict[int, Sequence[Backup] | Exception] = {}
    async with aclosing(snapshots.read()) as outcomes:
        async for outcome in outcomes:
            held[outcome.key] = outcome.value if outcome.error is None else outcome.error
    return cover(servers, held, clock.now(), rpo=rpo, slack=slack, stuck_after=stuck_after)


class _ServerClock:
    """The server's clock, by the `Date` headers of its responses."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def note(self, response: Response) -> None:
        """Take the response's `Date` into account.

        The latest clock counts: a response from a cache has an old date, by which a stale backup
        would look recent.
        """
        offset = clock_offset(date_of(response.headers), datetime.now(UTC))
        if offset is not None and (self._offset is None or offset > self._offset):
            self._offset = offset

    def now(self) -> datetime:
        """The time on the server's clock; on this machine's if no response told."""
        return datetime.now(UTC) + timedelta(seconds=self._offset or 0.0)
