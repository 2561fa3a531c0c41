"""Shared by the tests of lists: made-up backups and pages, and a paged list in memory."""

import asyncio
import json
from collections.abc import AsyncIterable, Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import parse_qsl

from yarl import URL

from vpsbackups_async import Backup, BackupStatus, BackupType, NotFoundError, Page, ServerRef
from vpsbackups_async._lists.links import NextLinks
from vpsbackups_async._lists.lists import KnownLists, Lists
from vpsbackups_async._lists.walk import MAX_PAGES, Walk
from vpsbackups_async._transport.secrets import Redactor
from vpsbackups_async.testing import FakeVPS, SeenRequest

T = TypeVar("T")

LIST_URL = "https://h:8443/api/v1/backups/"

HOSTILE = [
    "https://evil.example/api/v1/backups/?page=2",
    "https://h.evil.example/api/v1/backups/?page=2",
    "https://evil.example:8443/api/v1/backups/?page=2",
    "https://h.:8443/api/v1/backups/?page=2",
    "https://user@h:8443/api/v1/backups/?page=2",
    "https://user:pass@h:8443/api/v1/backups/?page=2",
    "https://@h:8443/api/v1/backups/?page=2",
    "https://h:8443@evil.example/api/v1/backups/?page=2",
    "https://h%40evil.example/api/v1/backups/?page=2",
    "https://h%2eevil.example/api/v1/backups/?page=2",
    "https://h\u3002evil.example/api/v1/backups/?page=2",
    "https://h\uff0fevil.example/api/v1/backups/?page=2",
    "//h:8443/api/v1/backups/?page=2",
    "//evil.example/api/v1/backups/?page=2",
    "/\\evil.example/api/v1/backups/?page=2",
    "\\\\evil.example/api/v1/backups/?page=2",
    "https:\\\\evil.example/api/v1/backups/?page=2",
    "javascript:alert(1)",
    "data:text/html,hello",
    "file:///etc/passwd",
    "ftp://h:8443/api/v1/backups/?page=2",
    "https://h:8443/api/v1/servers/?page=2",
    "https://h:8443/api/v1/backups/501/?page=2",
    "https://h:8443/api/v1/backups/../servers/?page=2",
    "https://h:8443/api/v1/backups/%2e%2e/servers/?page=2",
    "https://h:8443/api/v1/%2e%2e/backups/?page=2",
    "https://h:8443/api/v1/backups%2f?page=2",
    "https://h:8443/api/v1//backups/?page=2",
    "https://h:8443/?next=/api/v1/backups/",
    "https://h:99999/api/v1/backups/?page=2",
    "https://h:port/api/v1/backups/?page=2",
    "https://xn--a.example/api/v1/backups/?page=2",
    "https://xn--999999999.example/api/v1/backups/?page=2",
    "https://[::1/api/v1/backups/?page=2",
    " https://h:8443/api/v1/backups/?page=2",
    "https://h:8443/api/v1/backups/?page=2\nHost: evil.example",
    "https://h:8443/api/v1/backups/?page=2\x00",
    "?page=\ud800",
]
"""Links to a next page that must not be followed."""

_WHEN = datetime(2025, 1, 16, tzinfo=UTC)
_SERVER = ServerRef(1, "server-0001")


def make(backup_id: int) -> Backup:
    return Backup(backup_id, _SERVER, BackupType.MANUAL, BackupStatus.COMPLETED, 1, _WHEN, None, "")


def make_all(ids: Iterable[int]) -> tuple[Backup, ...]:
    return tuple(make(backup_id) for backup_id in ids)


def ids_of(backups: Iterable[Backup]) -> list[int]:
    return [backup.id for backup in backups]


def walk_over(
    fetch: object, query: str = "", prefetch: int = 0, max_pages: int = MAX_PAGES
) -> Walk[Backup]:
    links = NextLinks(URL(LIST_URL), Redactor())
    return Walk(fetch, query, links, prefetch=prefetch, max_pages=max_pages)  # type: ignore[arg-type]


def lists_over(fetch: object) -> Lists:
    """The `Lists` of a client that gets its pages from `fetch(listing, on_response, query)`."""
    known = KnownLists(URL(LIST_URL).parent.parent, Redactor())
    return Lists(fetch, known)  # type: ignore[arg-type]


class PagedIds:
    """A `fetch` that serves `ids` in numbered pages of `size` and records the requests.

    `seconds` is the time that each request takes. `asked` and `done` are the page numbers that
    were requested and served. `fails` maps page numbers to the error to raise, and `before` is
    called with the number of each requested page.
    """

    def __init__(self, ids: Iterable[int], size: int, *, seconds: float = 0.0) -> None:
        self.ids = list(ids)
        self.size = size
        self.seconds = seconds
        self.asked: list[int] = []
        self.done: list[int] = []
        self.in_flight = 0
        self.peak = 0
        self.fails: dict[int, Exception] = {}
        self.before: Callable[[int], object] = lambda _: None

    async def __call__(self, query: str) -> Page:
        number = int(dict(parse_qsl(query)).get("page", 1))
        self.asked.append(number)
        self.before(number)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.seconds:
                await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        if number in self.fails:
            raise self.fails[number]
        start = (number - 1) * self.size
        if start >= len(self.ids) and number > 1:
            raise NotFoundError(404, "Invalid page.")
        self.done.append(number)
        more = start + self.size < len(self.ids)
        link = f"{LIST_URL}?page={number + 1}" if more else None
        return Page(make_all(self.ids[start : start + self.size]), len(self.ids), link)


def on_page(fake: FakeVPS, number: int, action: Callable[[], object]) -> None:
    """Call `action` once, just before the server answers its `number`th GET from now."""
    gets = 0

    def look(seen: SeenRequest) -> None:
        nonlocal gets
        gets += seen.method == "GET"
        if seen.method == "GET" and gets == number:
            action()

    fake.on_request = look


def our_tasks() -> set["asyncio.Task[object]"]:
    """The tasks of the running loop, except those of a server that runs in the same loop."""
    return {
        task
        for task in asyncio.all_tasks()
        if not getattr(task.get_coro(), "__qualname__", "").startswith("RequestHandler.")
    }


async def drain(items: AsyncIterable[T], received: list[T]) -> None:
    """Append all items to `received`, which after an error holds those that came before it."""
    async for item in items:
        received.append(item)


def listing(rows: Iterable[tuple[int, int]], count: int | None, link: str | None) -> bytes:
    """The JSON of a page with a backup for each (backup id, server id)."""
    results = [
        {
            "id": backup_id,
            "server": {"id": server_id, "name": ""},
            "backup_type": "manual",
            "status": "completed",
            "size_mb": 1,
            "created_at": "2025-01-16T00:00:00Z",
            "expires_at": None,
            "description": "",
        }
        for backup_id, server_id in rows
    ]
    return json.dumps({"count": count, "next": link, "results": results}).encode()
