"""Where `vpsbackups list` takes its backups from, and which of them it wants."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.text import since
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import BadRequestError
from vpsbackups_async.models import Backup, Progress

__all__ = ["PAGE", "Best", "Selection", "batches", "moment_of"]

PAGE: Final = 100
"""The most that the provider's lists give at a time."""
_AHEAD: Final = 4
_MOST_SORTED: Final = 10_000

_Key = Callable[[Backup], Any]
_SORTS: Final[dict[str, _Key]] = {
    "id": lambda backup: backup.id,
    "created": lambda backup: backup.created_at,
    "size": lambda backup: backup.size_mb or 0,
    "name": lambda backup: (backup.server.name, backup.id),
}


@frozen(kw_only=True)
class Selection:
    """Which backups, in which order, how many."""

    servers: list[int]
    backup_type: str | None
    statuses: frozenset[str]
    since: datetime | None
    sort: str | None
    limit: int | None

    @property
    def sorts(self) -> bool:
        """Whether all must be read before the first can be shown."""
        return self.sort not in {None, "server"}

    def keeps(self, backup: Backup) -> bool:
        """Whether it passes the filters that are applied here."""
        return (self.since is None or backup.created_at >= self.since) and (
            not self.statuses
            or backup.status.casefold() in self.statuses
            or (backup.is_failed and "failed" in self.statuses)
        )

    def check(self) -> None:
        """Raise `UsageError` where that cannot be had."""
        if self.limit is not None and self.limit < 0:
            raise UsageError("--limit is zero or more")
        if self.sort is None:
            return
        key = self.sort.removeprefix("-")
        if self.sort == "server":
            if not self.servers:
                raise UsageError(
                    "--sort server lists one server after the other: name them (--server, "
                    "--servers-from)"
                )
        elif key not in _SORTS:
            raise UsageError(f"--sort takes server, {', '.join(_SORTS)}, not {self.sort!r}")
        elif self.limit is None or self.limit > _MOST_SORTED:
            raise UsageError(
                f"--sort {self.sort} cannot show a row before it has read all: give --limit N "
                f"({_MOST_SORTED:,} at most), or sort the lines: vpsbackups list | sort -k ..."
            )


def moment_of(text: str | None) -> datetime | None:
    """The moment that `--since` means; raises `UsageError`."""
    try:
        return None if text is None else since(text, datetime.now(UTC))
    except ValueError:
        raise UsageError(
            f"--since {text!r} is neither an age (90m, 24h, 7d) nor a date (2026-01-31T12:00)"
        ) from None


async def batches(
    client: BackupsClient, selection: Selection, report: Callable[[Progress], object]
) -> AsyncGenerator[Sequence[Backup]]:
    """The backups as they come: page by page, or one by one where many servers are asked."""
    if len(selection.servers) > 1 and selection.sort != "server":
        fleet = client.fleet(selection.servers)
        async with aclosing(
            fleet.list(backup_type=selection.backup_type, on_progress=report)
        ) as found:
            async for backup in found:
                yield (backup,)
        return
    servers: list[int | None] = [*selection.servers] or [None]
    for server_id in servers:
        async with aclosing(_pages(client, selection, server_id, report)) as pages:
            async for page in pages:
                yield page


async def _pages(
    client: BackupsClient,
    selection: Selection,
    server_id: int | None,
    report: Callable[[Progress], object],
) -> AsyncGenerator[Sequence[Backup]]:
    """The pages of one list, as large as the server gives them."""
    loop = asyncio.get_running_loop()
    began, read, total = loop.time(), 0, None
    streams = selection.limit is None or selection.sorts
    for page_size in (PAGE if streams else min(PAGE, max(1, selection.limit or 1)), None):
        stream = client.list(
            server_id=server_id,
            backup_type=selection.backup_type,
            page_size=page_size,
            prefetch=_AHEAD if streams else 0,
        )
        try:
            async with aclosing(stream.pages()) as pages:
                async for page in pages:
                    read += len(page.items)
                    total = total or page.count
                    report(Progress(read, read, 0, 0, total, loop.time() - began))
                    yield page.items
        except BadRequestError:
            # It may not know page_size: nobody says whether it does.
            if read or page_size is None:
                raise
        else:
            return


class Best:
    """The first few of all by a key, with no more kept than twice as many."""

    def __init__(self, selection: Selection) -> None:
        self._limit = selection.limit or 0
        self._key = _SORTS.get((selection.sort or "").removeprefix("-"), _SORTS["id"])
        self._reverse = (selection.sort or "").startswith("-")
        self._kept: list[Backup] = []

    def add(self, backups: Sequence[Backup]) -> None:
        """Look at these, too."""
        self._kept += backups
        if len(self._kept) > 2 * self._limit + PAGE:
            self._kept = self.sorted()

    def sorted(self) -> list[Backup]:
        """The best of those that were looked at."""
        return sorted(self._kept, key=self._key, reverse=self._reverse)[: self._limit]
