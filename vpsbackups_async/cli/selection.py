"""Which backups `vpsbackups list` shows, and how it reads them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final, Literal

from attrs import frozen

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.text import seconds_of, since
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.models import Backup, Progress

__all__ = [
    "PAGE",
    "PAGES_AHEAD",
    "RAW",
    "Best",
    "Selection",
    "Sort",
    "Status",
    "batches",
    "moment_of",
    "statuses_of",
]

PAGE: Final = 100
"""The largest page that the API gives, and how many rows are written at once."""
PAGES_AHEAD: Final = 4
RAW: Final = "raw:"
"""Begins a status that is compared as it is."""
_MOST_SORTED: Final = 10_000
"""The largest `--limit` of a sorted list: up to twice as many backups are held in memory."""

Sort = Literal["server", "id", "created", "size", "name"]
"""What `--sort` takes, beside `-` and one of these, for the completion of shells."""
Status = Literal["completed", "in_progress", "failed"]
"""What `--status` takes beside `raw:TEXT`, for the completion of shells."""

_Key = Callable[[Backup], Any]
_SORTS: Final[dict[str, _Key]] = {
    "id": lambda backup: backup.id,
    "created": lambda backup: backup.created_at,
    "size": lambda backup: backup.size_mb or 0,
    "name": lambda backup: (backup.server.name, backup.id),
}


@frozen(kw_only=True)
class Selection:
    """The filters, the order and the limit of a list, as the options give them."""

    servers: list[int]
    backup_type: Literal["manual", "automatic"] | None
    statuses: frozenset[str]
    since: datetime | None
    sort: str | None
    limit: int | None

    @property
    def sorts(self) -> bool:
        """Whether all backups must be read before the first can be shown."""
        return self.sort not in {None, "server"}

    @property
    def enough(self) -> int | None:
        """How many backups that pass the filters are enough; None if all must be read."""
        return None if self.sorts else self.limit

    def keeps(self, backup: Backup) -> bool:
        """Whether the backup passes the filters that the API does not have."""
        word = backup.status.casefold()
        return (self.since is None or backup.created_at >= self.since) and (
            not self.statuses
            or not self.statuses.isdisjoint({word, f"{RAW}{word}"})
            or (backup.is_failed and "failed" in self.statuses)
        )

    def check(self) -> None:
        """Raise `UsageError` if the options do not fit together."""
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


def statuses_of(given: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The words that a `--status` takes, in lower case; raises `UsageError` for an unknown one.

    Any text may follow `raw:`, and stays behind it.
    """
    words = frozenset(word.strip().casefold() for word in given)
    for word in sorted(words):
        if word not in known and not word.startswith(RAW):
            raise UsageError(
                f"--status {word!r} is not known: give {', '.join(known)}, or {RAW}{word or 'TEXT'}"
            )
    return words


def moment_of(text: str | None, option: str = "--since") -> datetime | None:
    """The moment that the text of an option stands for; raises `UsageError`."""
    age = (text or "").strip().lstrip("+-")
    if text is not None and age != text.strip() and seconds_of(age) is not None:
        raise UsageError(f"{option} {text!r} has a sign: give {age} for the moment so long ago")
    try:
        return None if text is None else since(text, datetime.now(UTC))
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is neither an age (90m, 24h, 7d) nor a date (2026-01-31T12:00)"
        ) from None


async def batches(
    client: BackupsClient, selection: Selection, report: Callable[[Progress], object]
) -> AsyncGenerator[Sequence[Backup]]:
    """The backups as they come: a page at a time, or one at a time from several servers.

    The client filters by server and type only; see `Selection.keeps`. Raises what `client.list`
    and `fleet.list` raise.
    """
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
    """The pages of one list, as large as the server allows, with a `Progress` for each."""
    loop = asyncio.get_running_loop()
    began, read, total = loop.time(), 0, None
    enough = selection.enough
    stream = client.list(
        server_id=server_id,
        backup_type=selection.backup_type,
        page_size=PAGE if enough is None else min(PAGE, max(1, enough)),
        prefetch=PAGES_AHEAD if enough is None else 0,
    )
    async with aclosing(stream.pages()) as pages:
        async for page in pages:
            read += len(page.items)
            total = total or page.count
            report(Progress(read, read, 0, 0, total, loop.time() - began))
            yield page.items


class Best:
    """The first backups in a sort order, up to the limit; at most about twice as many are held."""

    def __init__(self, selection: Selection) -> None:
        self._limit = selection.limit or 0
        self._key = _SORTS.get((selection.sort or "").removeprefix("-"), _SORTS["id"])
        self._reverse = (selection.sort or "").startswith("-")
        self._kept: list[Backup] = []

    def add(self, backups: Sequence[Backup]) -> None:
        """Take these backups into account."""
        self._kept += backups
        if len(self._kept) > 2 * self._limit + PAGE:
            self._kept = self.sorted()

    def sorted(self) -> list[Backup]:
        """The first of the backups that were added, in order."""
        return sorted(self._kept, key=self._key, reverse=self._reverse)[: self._limit]
