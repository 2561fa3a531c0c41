"""Requests to the fake server that do not use the library's client."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from vpsbackups_async.testing import FakeVPS

LIST = "/api/v1/backups/"


class Answered(NamedTuple):
    """A complete reply."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ids(self) -> list[int]:
        return [backup["id"] for backup in self.json["results"]]


async def ask(fake: FakeVPS, method: str, path: str | URL, **options: Any) -> Answered:
    """Send one request with the token on a new connection, without following redirects."""
    headers = {"Authorization": f"Bearer {fake.token}", **options.pop("headers", {})}
    url = path if "://" in str(path) else f"{fake.url}{path}"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, url, allow_redirects=False, **options) as reply,
    ):
        return Answered(reply.status, reply.headers.copy(), await reply.read())
