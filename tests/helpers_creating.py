"""A client of the fake server for creates, and the creates that the server received."""

from typing import Any

from vpsbackups_async import BackupsClient, ConstantBackoff, RetryPolicy
from vpsbackups_async.testing import FakeVPS, SeenRequest

RETRY = RetryPolicy(attempts=5, backoff=ConstantBackoff(0.1))


def client_of(fake: FakeVPS, url: str | None = None, **options: Any) -> BackupsClient:
    options.setdefault("retry", RETRY)
    return BackupsClient(fake.token, base_url=url or fake.url, **options)


def posts(fake: FakeVPS) -> list[SeenRequest]:
    """The creates that the server received, in order of arrival."""
    return [seen for seen in fake.requests if seen.method == "POST"]
