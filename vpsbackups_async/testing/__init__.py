"""A fake VPS.org server for tests: it runs in memory on a loopback port and fails on request.

It shares no code with the client, so that one mistake cannot hide in both. `VirtualTime` lets a
test of a ten-minute wait take milliseconds. The pytest plugin has fixtures for both.

- `fake_vps` is a started `FakeVPS`. The arguments of the marker `fake_vps` are its knobs (paging,
  page size, order, quota, durations, failures, rate limits). `VPS_API_TOKEN` and `VPS_API_URL` lead
  to it during the test, so that no `BackupsClient()` finds the real API. In a plain `def test_...`,
  which has no event loop, it runs in a thread of its own and in real time.
- `backups_client` is a `BackupsClient` of it, with everything else as by default.
- `virtual_time` is on wherever one of the two is used, and can be had alone.
  `@pytest.mark.fake_vps(virtual_time=False)` does without, as uvloop and the default loop of
  Windows have to.

A plain test suits FastAPI's and Starlette's `TestClient`, here for the README's application:

```python
import pytest
from fastapi.testclient import TestClient
from recipe import app

from vpsbackups_async.testing import FakeVPS


@pytest.mark.fake_vps(servers=3, backup_seconds=0.1)
def test_over_http(fake_vps: FakeVPS) -> None:
    fake_vps.add_backup(2, description="Before the update")
    with TestClient(app) as http:
        assert "Before the update" in http.get("/servers/2/backups").text
        assert http.post("/servers/2/backups").status_code == 202
    assert fake_vps.count("POST", status=201) == 1
```

Without pytest, `FakeVPS` is an async context manager, and `FakeVPS().in_thread()` a plain one:

```python
from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS

async with FakeVPS(servers=3, backup_seconds=0.1) as fake:
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        await client.wait(await client.create(1), backoff=lambda attempt: 0.05)
    assert fake.count("POST", status=201) == 1
```
"""

from __future__ import annotations

from .contract import openapi
from .faults import (
    Drop,
    Fault,
    Garbage,
    GzipBomb,
    HostileNext,
    Latency,
    NotJSON,
    Oversized,
    RateLimit,
    Redirect,
    Reply,
    ServerFault,
    Truncate,
)
from .seen import SeenRequest
from .server import FakeVPS
from .virtual import VirtualTime

__all__ = [
    "Drop",
    "FakeVPS",
    "Fault",
    "Garbage",
    "GzipBomb",
    "HostileNext",
    "Latency",
    "NotJSON",
    "Oversized",
    "RateLimit",
    "Redirect",
    "Reply",
    "SeenRequest",
    "ServerFault",
    "Truncate",
    "VirtualTime",
    "openapi",
]
