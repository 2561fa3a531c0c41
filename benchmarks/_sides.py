"""One side of a comparison, in its own process: `python -m benchmarks._sides '{"side": …}'`.

Each side requests the list of one server (one page of `size` backups) `requests` times, with
`AT_ONCE` requests at a time, and counts the backups. It prints JSON: the seconds of CPU that the
requests took after a warm-up, and the number of backups received.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks._server import pin

TOKEN = "vps_benchmark"
AT_ONCE = 50
_WARM_UP = 4

Ask = Callable[[], Awaitable[int]]
"""Sends one request and returns the number of backups received."""


@asynccontextmanager
async def ours(url: str, size: int) -> AsyncIterator[Ask]:
    """This library's client with default options."""
    from vpsbackups_async import BackupsClient  # each side imports only its own library

    async with BackupsClient(TOKEN, base_url=url) as client:

        async def ask() -> int:
            backups = 0
            async for _ in client.list(server_id=12345, page_size=size):
                backups += 1
            return backups

        yield ask


@asynccontextmanager
async def loop(url: str, size: int) -> AsyncIterator[Ask]:
    """A plain aiohttp loop, as a user would write it."""
    import aiohttp

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        async def ask() -> int:
            backups = 0
            params = {"server_id": 12345, "page_size": size}
            async with session.get(f"{url}/api/v1/backups/", params=params) as response:
                response.raise_for_status()
                for _ in (await response.json())["results"]:
                    backups += 1
            return backups

        yield ask


@asynccontextmanager
async def httpx_pydantic(url: str, size: int) -> AsyncIterator[Ask]:
    """httpx and pydantic, as a user would write it."""
    import httpx

    from benchmarks._pydantic_models import Listing

    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=url, headers=headers) as client:

        async def ask() -> int:
            params = {"server_id": 12345, "page_size": size}
            response = await client.get("/api/v1/backups/", params=params)
            response.raise_for_status()
            return len(Listing.model_validate_json(response.content).results)

        yield ask


@asynccontextmanager
async def vps_mcp(url: str, size: int) -> AsyncIterator[Ask]:
    """The client in the provider's own package."""
    import logging

    from vps_mcp.client import VPSClient

    logging.getLogger("vps-mcp").setLevel(logging.WARNING)  # it logs each request
    client = VPSClient(TOKEN, f"{url}/api/v1")

    async def ask() -> int:
        params = {"server_id": 12345, "page_size": size}
        return len((await client._get("/backups/", params))["results"])

    try:
        yield ask
    finally:
        await client.close()


@asynccontextmanager
async def generated(url: str, size: int) -> AsyncIterator[Ask]:
    """A client that `openapi-python-client` generated from our OpenAPI file; see `generate`."""
    from vps_generated.api.default.list_backups import asyncio as list_backups
    from vps_generated.client import AuthenticatedClient

    async with AuthenticatedClient(base_url=url, token=TOKEN) as client:

        async def ask() -> int:
            page = await list_backups(client=client, server_id=12345, page_size=size)
            return len(page.results)

        yield ask


def generate(folder: Path) -> None:
    """Generate the package `vps_generated` in the folder."""
    from vpsbackups_async.testing import openapi  # kept out of the timed process

    document = folder / "openapi.json"
    document.write_text(json.dumps(openapi()), "utf-8")
    subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate"),
            *("--path", document, "--output-path", folder / "vps_generated", "--meta", "none"),
        ],
        check=True,
        capture_output=True,
    )


SIDES = {
    "ours": ours,
    "loop": loop,
    "httpx_pydantic": httpx_pydantic,
    "vps_mcp": vps_mcp,
    "generated": generated,
}


async def _measure(side: str, url: str, size: int, requests: int) -> dict[str, float]:
    async with SIDES[side](url, size) as ask:
        backups = 0

        async def work(count: int) -> None:
            nonlocal backups
            for _ in range(count):
                received = await ask()
                backups += received

        await asyncio.gather(*(work(_WARM_UP) for _ in range(AT_ONCE)))
        backups = 0
        cpu = time.process_time()
        await asyncio.gather(*(work(requests // AT_ONCE) for _ in range(AT_ONCE)))
        return {
            "cpu": time.process_time() - cpu,
            "backups": backups,
        }


def cost(
    side: str, url: str, size: int, requests: int, *, path: str = "", uvloop: bool = False
) -> float:
    """The CPU time of one request in µs: the mean over `requests`, measured in a new process.

    `path` is added to `sys.path` there. Raises AssertionError if backups are missing.
    """
    order = {"side": side, "url": url, "size": size, "requests": requests}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._sides", json.dumps({**order, "uvloop": uvloop}), path],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    measured = json.loads(done.stdout)
    if measured["backups"] != requests * size:
        raise AssertionError(f"{side} saw {measured['backups']} of {requests * size} backups")
    return 1e6 * float(measured["cpu"]) / requests


def main() -> None:
    """Measure the side that the command line names and print the result."""
    order = json.loads(sys.argv[1])
    sys.path.extend(sys.argv[2:])
    pin(0)
    with_uvloop = order.pop("uvloop")
    if with_uvloop:
        import uvloop

        measured = uvloop.run(_measure(**order))
    else:
        measured = asyncio.run(_measure(**order))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
