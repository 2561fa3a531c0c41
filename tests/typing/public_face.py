"""Checked by `mypy --strict` and never run: what a type checker makes of the public face."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
)
from datetime import datetime
from typing import Any, assert_type

import aiohttp

from vpsbackups_async import (
    ALL_SERVERS,
    Account,
    AdaptiveLimiter,
    ApiError,
    Attempt,
    Backoff,
    Backup,
    BackupDisappearedError,
    BackupFailedError,
    BackupRef,
    BackupsClient,
    BackupStatus,
    BackupStream,
    BackupType,
    ClientStats,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    DecorrelatedJitterBackoff,
    ExponentialBackoff,
    Fleet,
    FleetError,
    InvalidResponseError,
    Limiter,
    LimiterState,
    ManualBackupLimitError,
    Observation,
    Outcome,
    Page,
    PaginationError,
    RateLimitedError,
    RequestTimeoutError,
    Restore,
    RetryPolicy,
    Server,
    ServerRef,
    ServerStream,
    Sweep,
    Timeouts,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WaitError,
    WaitTimeoutError,
    fan_out,
    from_json,
    to_json,
)


async def lists(client: BackupsClient) -> None:
    """`list` gives a stream, not a coroutine of one."""
    assert_type(client.list(server_id=12345, backup_type="manual"), BackupStream)
    stream = client.list(backup_type=BackupType.MANUAL, page_size=50, prefetch=8)
    async for backup in stream:
        assert_type(backup, Backup)
    async with client.list() as entered:
        assert_type(entered, BackupStream)
    async for page in stream.pages():
        assert_type(page, Page[Backup])
        assert_type(page.items, tuple[Backup, ...])
        assert_type(page.count, int | None)
        assert_type(page.next, str | None)
    assert_type(await stream.first(), Backup | None)
    assert_type(await stream.collect(limit=5), list[Backup])
    assert_type(await stream.count(), int)
    sweep = await stream.snapshot()
    assert_type(sweep, Sweep[Backup])
    assert_type(sweep.items, tuple[Backup, ...])
    assert_type(sweep.complete, bool)
    assert_type([backup.id async for backup in client.list()], list[int])
    await client.list()  # type: ignore[misc]  # a stream is not awaited


async def servers_and_account(client: BackupsClient) -> None:
    """`servers` gives a stream of servers, which names the servers of a fleet."""
    stream = client.servers(status="active", location="us-west", page_size=50, prefetch=2)
    assert_type(stream, ServerStream)
    async for server in stream:
        assert_type(server, Server)
        assert_type(server.created_at, datetime | None)
        assert_type((server.id, server.name, server.status), tuple[int, str, str])
    assert_type(await stream.snapshot(), Sweep[Server])
    account = await client.account()
    assert_type(account, Account)
    assert_type(account.permissions, tuple[str, ...])
    several: list[Fleet] = [
        client.fleet(ALL_SERVERS),
        client.fleet(stream),
        client.fleet(await stream.collect()),
        client.fleet([server async for server in stream]),
    ]
    assert_type(several[0].create(), AsyncGenerator[Outcome[int, Backup]])
    client.fleet(None)  # type: ignore[arg-type]  # a missing setting is not every server
    client.fleet(["12345"])  # type: ignore[list-item]  # wrong on purpose
    assert_type(from_json(Server, "{}"), Server)


async def one_backup(client: BackupsClient, backup: Backup) -> None:
    """A backup's fields, and the verbs for one backup."""
    assert_type(await client.create(12345, description="Nightly"), Backup)
    assert_type(await client.get(501, server_id=None), Backup)
    assert_type(await client.wait(backup, backoff=ConstantBackoff(2), timeout=None), Backup)
    assert_type(await client.wait(BackupRef(502, 12345), on_poll=print), Backup)
    assert_type(await client.restore(12345, backup.id), Restore)
    await client.delete(501, missing_ok=True)
    assert_type(backup.id, int)
    assert_type(backup.server, ServerRef)
    assert_type(backup.backup_type, BackupType)
    assert_type(backup.status, BackupStatus)
    assert_type(backup.size_mb, int | None)
    assert_type(backup.created_at, datetime)
    assert_type(backup.expires_at, datetime | None)
    assert_type(backup.description, str)
    assert_type(backup.message, str | None)
    assert_type(backup.extra, Mapping[str, Any])
    assert_type(backup.ref, BackupRef)
    assert_type(backup.ref.server_id, int | None)
    backup.id = 5  # type: ignore[misc]  # models are frozen
    await client.create("12345")  # type: ignore[arg-type]  # wrong on purpose
    assert_type(await client.wait(501), Backup)
    await client.wait("501")  # type: ignore[arg-type]  # wrong on purpose


async def many_servers(client: BackupsClient, ids: AsyncIterator[int]) -> None:
    """A fleet takes any iterable of ids, and its outcomes know what they hold."""
    for fleet in (
        client.fleet([1, 2]),
        client.fleet(range(10), concurrency=64),
        client.fleet(number for number in range(10)),
        client.fleet(ids, concurrency=None),
    ):
        assert_type(fleet, Fleet)
    fleet = client.fleet(ids)
    async for backup in fleet.list(backup_type="automatic"):
        assert_type(backup, Backup)
    assert_type(
        fleet.create(description="Nightly", wait=True), AsyncGenerator[Outcome[int, Backup]]
    )
    async for outcome in fleet.create(backoff=ExponentialBackoff(2), timeout=None):
        assert_type(outcome, Outcome[int, Backup])
        assert_type(outcome.key, int)
        if outcome.ok:
            assert_type(outcome.value, Backup)
        assert_type(outcome.error, Exception | None)
        assert_type(outcome.ok, bool)
        assert_type(outcome.unwrap(), Backup)


async def length(text: str) -> int:
    """Work on an item."""
    return len(text)


async def any_work(client: BackupsClient, texts: AsyncIterator[str], refs: list[BackupRef]) -> None:
    """`fan_out` takes its types from the work and the items."""
    assert_type(fan_out(length, ["a", "b"]), AsyncGenerator[Outcome[str, int]])
    assert_type(fan_out(length, texts, concurrency=None), AsyncGenerator[Outcome[str, int]])
    async for outcome in fan_out(lambda text: length(text + text), texts, concurrency=5):
        assert_type(outcome, Outcome[str, int])
    async for deleted in fan_out(client.delete, [501, 502]):
        assert_type(deleted, Outcome[int, None])
    async for waited in fan_out(client.wait, refs, concurrency=None):
        assert_type(waited.unwrap(), Backup)
    fan_out(length, [1, 2])  # type: ignore[arg-type]  # wrong on purpose


def by_number(attempt: Attempt) -> float:
    """A plain function as a strategy."""
    assert_type(attempt.number, int)
    assert_type(attempt.elapsed, float)
    assert_type(attempt.previous_delay, float | None)
    assert_type(attempt.backup, Backup | None)
    return 2.0 * attempt.number


class Stepwise:
    """An object as a strategy."""

    def __call__(self, attempt: Attempt, /) -> float:
        """Ever longer."""
        return attempt.elapsed / 2


def wrong(number: int) -> str:
    """No strategy."""
    return str(number)


async def strategies(client: BackupsClient, backup: Backup) -> None:
    """Whatever takes an `Attempt` and gives a number is a `Backoff`."""
    several: list[Backoff] = [
        by_number,
        Stepwise(),
        lambda attempt: attempt.number,
        ConstantBackoff(2),
        ExponentialBackoff(2, maximum=30, jitter=0.5),
        DecorrelatedJitterBackoff(),
    ]
    for backoff in several:
        await client.wait(backup, backoff=backoff)
        RetryPolicy(attempts=3, backoff=backoff, budget=None)
    await client.wait(backup, backoff=by_number)
    await client.wait(backup, backoff=wrong)  # type: ignore[arg-type]  # wrong on purpose


class Turnstile:
    """A limiter of somebody's own."""

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Let everything through."""

    def observe(self, outcome: Observation) -> None:
        """Take note."""
        assert_type(outcome.status, int | None)
        assert_type(outcome.retry_after, float | None)


class Crowd(Turnstile):
    """One that also tells its state."""

    maximum: int | None = None
    limit: int | None = 3
    running: int | None = 2
    waiting: int | None = 1

    def closed_for(self, kind: str | None = None) -> float:
        """Open for deletions alone."""
        return 0.0 if kind == "delete" else 9.5


class NoLimiter:
    """Not a limiter: it hears nothing."""

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Let everything through."""


async def settings(session: aiohttp.ClientSession) -> None:
    """All that a client can be given."""
    limiters: list[Limiter] = [Turnstile(), AdaptiveLimiter(maximum=8, rate=2.5)]
    states: list[LimiterState] = [Crowd(), AdaptiveLimiter()]
    assert_type(states[0].closed_for("create"), float)
    assert_type(states[0].waiting, int | None)
    for limiter in limiters:
        async with BackupsClient(
            "vps_token",
            base_url="https://admin.vps.org",
            timeouts=Timeouts(connect=5, attempt=10, deadline=60),
            retry=RetryPolicy(attempts=1),
            limiter=limiter,
            session=session,
            ssl_context=None,
            proxy="env",
            allow_insecure=False,
            max_response_bytes=2**20,
        ) as client:
            assert_type(client, BackupsClient)
            assert_type(client.stats, ClientStats)
            closing: Awaitable[None] = client.close()
            await closing
    BackupsClient(limiter=Turnstile())
    BackupsClient(limiter=NoLimiter())  # type: ignore[arg-type]  # wrong on purpose


async def errors(client: BackupsClient) -> None:
    """What each error knows."""
    try:
        await client.create(12345)
    except ManualBackupLimitError as error:
        assert_type(error.field_errors, dict[str, list[str]])
    except RateLimitedError as error:
        assert_type(error.retry_after, float | None)
    except ApiError as error:
        assert_type(error.status, int)
        assert_type(error.detail, str)
        assert_type(error.request_id, str | None)
        assert_type((error.method, error.path, error.attempts), tuple[str, str, int])
    except UnexpectedRedirectError as error:
        assert_type(error.location, str | None)
    except (TransportError, DeadlineExceededError) as error:
        assert_type(error.sent, bool)
        assert_type(error.attempts, int)
    except CreateOutcomeUnknownError as error:
        assert_type(error.candidates, tuple[Backup, ...])
        assert_type(error.server_id, int | None)
    except BackupFailedError as error:
        assert_type(error.backup, Backup | None)
    except BackupDisappearedError as error:
        assert_type(error.last_seen, Backup | None)
    except WaitError as error:
        assert_type(error.ref, BackupRef)
        assert_type(error.last_status, BackupStatus | None)
        assert_type(error.elapsed, float)
    except InvalidResponseError as error:
        assert_type((error.place, error.reason), tuple[str, str])
    except PaginationError as error:
        assert_type(error.url, str | None)
    except FleetError as error:
        assert_type(error.failures, tuple[Outcome[Any, Any], ...])


async def timeouts_are_timeouts(client: BackupsClient, backup: Backup) -> None:
    """The builtin catches all three."""
    caught: list[TimeoutError] = [
        WaitTimeoutError(backup.ref),
        RequestTimeoutError("slow"),
        DeadlineExceededError("late"),
    ]
    assert_type(caught, list[TimeoutError])


def stored(backup: Backup) -> None:
    assert_type(to_json(backup), bytes)
    assert_type(from_json(BackupRef, b"{}"), BackupRef)
    assert_type(from_json(Backup, "{}"), Backup)


Scope = MutableMapping[str, Any]
Application = Callable[
    [Scope, Callable[[], Awaitable[Scope]], Callable[[Scope], Awaitable[None]]], Awaitable[None]
]


async def web_handlers(client: BackupsClient, backup: Backup, app: Application) -> None:
    assert_type(await client.list().ndjson(), AsyncGenerator[bytes])
    assert_type(client.background(client.wait(backup), name="wait"), asyncio.Task[Backup])
    client.background(client.close)  # type: ignore[arg-type]  # the coroutine, not its function
    served: Application = client.asgi_lifespan(app)
    del served
    assert_type(VPSBackupsError().gateway_status, int)
