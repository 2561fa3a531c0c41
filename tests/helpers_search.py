"""Shared by the tests of searches: a list in memory, and what a search in it tells."""

import asyncio
import itertools
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from attrs import define, field
from helpers_streams import lists_over

from vpsbackups_async import (
    Backup,
    BackupStatus,
    BackupType,
    ServerError,
    ServerRef,
    VPSBackupsError,
)
from vpsbackups_async._lists.lists import Hooks
from vpsbackups_async._lists.planner import Finding, by_server
from vpsbackups_async._lists.search import Search
from vpsbackups_async._lists.wanted import Wanted
from vpsbackups_async.models import Page

WHEN = datetime(2025, 1, 16, tzinfo=UTC)
UNAVAILABLE = ServerError(503, "down")


def backup(number: int, server_id: int | None = None) -> Backup:
    return Backup(
        number,
        ServerRef(server_id or number, ""),
        BackupType.MANUAL,
        BackupStatus.IN_PROGRESS,
        None,
        WHEN,
        None,
        "",
    )


def newest_first(count: int) -> list[Backup]:
    return [backup(number) for number in range(count, 0, -1)]


class Listing:
    """A list in memory; `asked` has the server of each request, None for a page of the whole.

    `retried` are the errors of failed attempts before each request is answered, `seconds` after it
    was sent; with `ignores` a server's list is the whole one.
    """

    def __init__(
        self,
        backups: Sequence[Backup],
        *,
        page_size: int = 10,
        counts: bool = True,
        moves: bool = False,
        ignores: bool = False,
        refuse: Callable[[int | None, int], VPSBackupsError | None] = lambda server_id, page: None,
    ) -> None:
        self.backups = list(backups)
        self.page_size = page_size
        self.counts = counts
        self.moves = moves
        self.ignores = ignores
        self.retried: list[VPSBackupsError] = []
        self.seconds = 0.0
        self.refuse = refuse
        self.asked: list[int | None] = []
        self.options: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0

    async def fetch(self, listing: object, hooks: Hooks, query: str) -> Page[Backup]:
        asked = dict(parse_qsl(query))
        self.options.append(asked)
        server_id = int(asked["server_id"]) if "server_id" in asked else None
        number = int(asked.get("page", 1))
        self.asked.append(server_id)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        for failure in self.retried:
            if hooks.on_retry is not None:
                hooks.on_retry(failure)
        if (error := self.refuse(server_id, number)) is not None:
            raise error
        if hooks.on_response is not None:
            hooks.on_response(None)  # type: ignore[arg-type]
        every = server_id is None or self.ignores
        shown = [one for one in self.backups if every or one.server.id == server_id]
        end = number * self.page_size
        items = tuple(shown[end - self.page_size : end])
        link = f"?page={number + 1}" if end < len(shown) else None
        if self.moves and server_id is None and link is None:
            items = (*items, items[-1])  # the list moved: an item came twice
            return Page(items, len(shown) + 1)
        return Page(items, len(shown) if self.counts else None, _with(asked, link))

    def take_asked(self) -> list[int | None]:
        asked, self.asked = self.asked, []
        return asked


def _with(asked: dict[str, str], link: str | None) -> str | None:
    """The link with the filters and the page size that were asked for."""
    if link is None:
        return None
    kept = {name: value for name, value in asked.items() if name != "page"}
    return "&".join([link, *(f"{name}={value}" for name, value in kept.items())])


@define
class Report:
    """What one search told, all findings together."""

    absent: set[int] = field(factory=set)
    errors: dict[int, VPSBackupsError] = field(factory=dict)
    requests: int = 0


class Watcher:
    """Looks for backups by one search as a hub does, and keeps what was found."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.search = Search(lists_over(listing.fetch))
        self.shown: set[int] = set()

    async def look(self, wanted: Iterable[Wanted]) -> Report:
        wanted = list(wanted)
        self.shown = set()
        self.listing.take_asked()
        report = Report()
        known = {one.id for one in wanted}
        plan = self.search.plan(wanted)
        left = await self._take(report, self.search.sweep(plan.sweep, known, on_attempt=unheard))
        servers = by_server([*itertools.chain(*plan.servers.values()), *left])
        await self._take(report, self.search.servers(servers, known, on_attempt=unheard))
        assert report.requests <= len(self.listing.asked)
        return report

    async def _take(self, report: Report, findings: AsyncIterable[Finding]) -> list[Wanted]:
        left: list[Wanted] = []
        async for finding in findings:
            self.shown.update(backup.id for backup in finding.found)
            report.absent.update(backup_id for backup_id, _ in finding.absent)
            report.requests += finding.requests
            left += finding.left
            if finding.error is not None:
                failed = (backup_id for backup_id, _ in finding.failed)
                report.errors.update(dict.fromkeys(failed, finding.error))
        return left


def unheard(server_id: int | None, error: VPSBackupsError | None) -> None: ...


def wanted(
    numbers: Iterable[int], *, manual: bool = True, proof: bool = True, known: bool = True
) -> list[Wanted]:
    return [Wanted(number, number if known else None, manual, proof) for number in numbers]
