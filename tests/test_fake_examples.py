"""The examples in openapi.json fit its schemas, and the client reads them from a mock server."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jsonschema
import pytest
from aiohttp import web

from vpsbackups_async import BackupsClient, RetryPolicy
from vpsbackups_async.testing import openapi

DOCUMENT = openapi()
Content = tuple[str, str, str, str, dict[str, Any]]


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """The object that a reference leads to."""
    if "$ref" not in value:
        return value
    found = DOCUMENT
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def contents() -> Iterator[Content]:
    """Method, path, status, media type and content of every reply."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            for status, reply in operation["responses"].items():
                for kind, content in resolved(reply).get("content", {}).items():
                    yield method, path, status, kind, content


def test_every_reply_with_a_body_has_an_example_that_fits_its_schema() -> None:
    count = 0
    for method, path, status, kind, content in contents():
        assert "example" in content, (method, path, status, kind)
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(content["example"])
        count += 1
    assert count > 40


@pytest.fixture
async def mock() -> AsyncIterator[str]:
    """A server that answers with the example of each first success, as Prism does."""

    async def answer(request: web.Request) -> web.Response:
        for method, path, status, _, content in contents():
            pattern = re.sub(r"\{\w+\}", r"\\d+", path)
            if method == request.method.lower() and re.fullmatch(pattern, request.path):
                return web.json_response(content["example"], status=int(status))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_client_reads_what_a_mock_server_makes_of_the_document(mock: str) -> None:
    async with BackupsClient("vps_t", base_url=mock, retry=RetryPolicy(attempts=1)) as client:
        backups = await client.list().collect()
        assert [backup.id for backup in backups] == [501, 499, 495]
        assert (await client.create(12345)).id == 502
        servers = await client.servers().collect()
        assert [(server.id, server.status) for server in servers] == [
            (12346, "stopped"),
            (12345, "active"),
        ]
        assert (await client.account()).permissions[0] == "servers:read"


def test_an_example_of_a_list_is_the_providers_own() -> None:
    given = DOCUMENT["paths"]["/api/v1/backups/"]["get"]["responses"]["200"]
    text = json.dumps(given["content"]["application/json"]["example"])
    assert re.findall(r'"id": (\d+), "server"', text) == ["501", "499", "495"]
