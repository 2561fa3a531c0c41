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
from vpsbackups_async.durable.schema import NAME_IT, facts, keep_fact, lock_runs
from vpsbackups_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    RateLimitedError,
    ServerError,
    TransportError,
)

__all__ = ["check", "claim", "demand"]

_TOLD: Final = "account"
_NAMED: Final = "account_name"
_AT_ONCE: Final = Timeouts(connect=5.0, attempt=5.0, deadline=5.0)
"""For an API that does not answer: who cancels a run then is not to wait for it."""


async def claim(database: Database, client: WorkerClient, name: str | None) -> bool:
    """Note whose database it is, unless the API does not tell: whether that is known.

    `name` is the account's, where it is given, and counts only where the API does not tell it.
    Raises `ConfigurationError` for another account.
    """
    told = await client.account_name()
    if told is None and name is None:
        return False
    await database.run(lambda connection: _bind(connection, told, name, database))
    return True


async def demand(database: Database, client: WorkerClient, name: str | None) -> None:
    """Note whose database it is, as `claim`; raises `ConfigurationError` also if nobody tells."""
    if not await claim(database, client, name):
        raise ConfigurationError(
            f"this API does not tell whose token it is: give the account a name ({NAME_IT})"
        )


async def check(database: Database, options: Mapping[str, Any], name: str | None) -> None:
    """Refuse another account than the one whose database it is, where there is a token or a name.

    Without either nobody is refused: who can write to the database can change all that is in it. An
    API that is away is not waited for, as workers are refused too. Raises `ConfigurationError` for
    another account, and `AuthenticationError` for a refused token.
    """
    if not any(await database.run(_owners)):
        return
    if options.get("token") or os.environ.get("VPS_API_TOKEN"):
        retry = options.get("retry")
        once = evolve(retry if isinstance(retry, RetryPolicy) else RetryPolicy(), attempts=1)
        changed = {"retry": once, "timeouts": _AT_ONCE}
        with suppress(DeadlineExceededError, RateLimitedError, ServerError, TransportError):
            async with WorkerClient(**{**options, **changed}) as client:
                await claim(database, client, name)
                return
    if name is not None:
        await database.run(lambda connection: _bind(connection, None, name, database))


def _bind(
    connection: sa.Connection, told: str | None, name: str | None, database: Database
) -> None:
    """Note the account, as the API tells it or as it is named; or refuse it.

    Where the API did not tell it before, and does now, the name that was given shows that both are
    the same.
    """
    lock_runs(connection)
    told_before, named_before = _owners(connection)
    if told is not None and told_before is not None:
        known, given, way = [told_before], [told], ""
    else:
        known = [one for one in (told_before, named_before) if one is not None]
        given = [one for one in (told, name) if one is not None]
        way = f"; where both are names of the same account, give the first one ({NAME_IT})"
    if known and not {one.casefold() for one in known} & {one.casefold() for one in given}:
        raise ConfigurationError(
            f"the database {database.name} belongs to the account {known[0]!r}, not to "
            f"{given[0]!r}: use the token of that account, or another database (--database){way}"
        )
    if told is not None:
        keep_fact(connection, _TOLD, told)
    elif name is not None and not known:
        keep_fact(connection, _NAMED, name)


def _owners(connection: sa.Connection) -> tuple[str | None, str | None]:
    """The account whose database it is as the API told it, and as it was named; None if unknown."""
    query = sa.select(facts.c.name, facts.c.value).where(facts.c.name.in_((_TOLD, _NAMED)))
    found = {row.name: row.value for row in connection.execute(query)}
    return found.get(_TOLD), found.get(_NAMED)
