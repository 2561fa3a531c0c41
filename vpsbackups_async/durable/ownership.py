"""Whose database it is: that of the account of the first token that was used on it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import sqlalchemy as sa
from attrs import evolve

from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.schema import bind_account, facts
from vpsbackups_async.errors import (
    DeadlineExceededError,
    RateLimitedError,
    ServerError,
    TransportError,
)

__all__ = ["check", "claim"]

_AT_ONCE: Final = Timeouts(connect=5.0, attempt=5.0, deadline=5.0)
"""For an API that does not answer: who cancels a run then is not to wait for it."""


async def claim(database: Database, client: WorkerClient, name: str | None) -> bool:
    """Note whose database it is, unless the API does not tell: whether that is known.

    `name` is the account's, where it is given. Raises `ConfigurationError` for another account.
    """
    account = name or await client.account_name()
    if account is None:
        return False
    await database.run(lambda connection: bind_account(connection, account, database))
    return True


async def check(database: Database, options: Mapping[str, Any], name: str | None) -> None:
    """Refuse another account than the one whose database it is, where there is a token or a name.

    Without either nobody is refused: who can write to the database can change all that is in it. An
    API that is away is not waited for, as workers are refused too. Raises `ConfigurationError` for
    another account, and `AuthenticationError` for a refused token.
    """
    query = sa.select(facts.c.value).where(facts.c.name == "account")
    if await database.run(lambda connection: connection.scalar(query)) is None:
        return
    if name is not None:
        await database.run(lambda connection: bind_account(connection, name, database))
    elif options.get("token") or os.environ.get("VPS_API_TOKEN"):
        retry = options.get("retry")
        once = evolve(retry if isinstance(retry, RetryPolicy) else RetryPolicy(), attempts=1)
        changed = {"retry": once, "timeouts": _AT_ONCE}
        with suppress(DeadlineExceededError, RateLimitedError, ServerError, TransportError):
            async with WorkerClient(**{**options, **changed}) as client:
                await claim(database, client, None)
