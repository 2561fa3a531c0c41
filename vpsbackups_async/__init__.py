"""Asyncio client for the VPS.org backups API; start from `BackupsClient`.

```python
import asyncio

from vpsbackups_async import BackupsClient


async def main() -> None:
    async with BackupsClient() as client:
        async for backup in client.list(backup_type="manual"):
            print(backup.id, backup.server.name, backup.status, backup.size_mb)


asyncio.run(main())
```

## Web applications

One client for each application, opened and closed with it; all handlers share its limiter, so that
200 calls at once are 64 requests at a time. `BackupStream.ndjson` is a streamed body, and
`gateway_status` of an error the status to answer with. `BackupsClient.background` keeps work that
goes on after the answer. The README has this for FastAPI. What must end when its client leaves goes
into a streamed body there: a plain handler is not cancelled.

**Starlette** has the same lifespan and the same handler of errors, given as
`exception_handlers={VPSBackupsError: failed}`.

```python
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from vpsbackups_async import BackupsClient


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with BackupsClient() as app.state.backups:
        yield


async def listing(request: Request) -> StreamingResponse:
    stream = request.app.state.backups.list(server_id=request.path_params["server_id"])
    return StreamingResponse(await stream.ndjson(), media_type="application/x-ndjson")


app = Starlette(routes=[Route("/servers/{server_id:int}/backups", listing)], lifespan=lifespan)
```

**aiohttp.web** cancels no handler by itself: run it by
`web.run_app(app, handler_cancellation=True)`, or give that to `AppRunner`; without it a handler
notices at its next write that its client has left.

```python
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from vpsbackups_async import BackupsClient, VPSBackupsError, to_json

CLIENT = web.AppKey("backups", BackupsClient)


async def backups(app: web.Application) -> AsyncIterator[None]:
    async with BackupsClient() as app[CLIENT]:
        yield


@web.middleware
async def failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except VPSBackupsError as error:
        return web.json_response({"detail": str(error)}, status=error.gateway_status)


async def listing(request: web.Request) -> web.Response:
    stream = request.app[CLIENT].list(server_id=int(request.match_info["server_id"]))
    return web.Response(body=await stream.ndjson(), content_type="application/x-ndjson")


async def create(request: web.Request) -> web.Response:
    client = request.app[CLIENT]
    backup = await client.create(int(request.match_info["server_id"]))
    client.background(client.wait(backup), name=f"wait for {backup.id}")
    return web.Response(body=to_json(backup.ref), status=202, content_type="application/json")


app = web.Application(middlewares=[failures])
app.cleanup_ctx.append(backups)
app.router.add_get("/servers/{server_id}/backups", listing)
app.router.add_post("/servers/{server_id}/backups", create)
```

**Django** under ASGI (`uvicorn recipe:app`; `runserver` has no event loop that lasts): it cancels a
view whose client leaves, and knows no lifespan, so the client brings one. In a project, the parts
go to their files.

```python
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path

from vpsbackups_async import BackupsClient

backups = BackupsClient()  # opens its connections on first use


async def listing(request: HttpRequest, server_id: int) -> StreamingHttpResponse:
    lines = await backups.list(server_id=server_id).ndjson()
    return StreamingHttpResponse(lines, content_type="application/x-ndjson")


urlpatterns = [path("servers/<int:server_id>/backups", listing)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"])
app = backups.asgi_lifespan(get_asgi_application())
```
"""

from typing import TYPE_CHECKING

from vpsbackups_async._lazy import on_first_use
from vpsbackups_async._transport.adaptive import AdaptiveLimiter
from vpsbackups_async._transport.limiter import Limiter, LimiterState, Observation
from vpsbackups_async._transport.quota import RateLimitStatus
from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async._version import __version__ as __version__
from vpsbackups_async._wire import from_json, to_json
from vpsbackups_async.backoff import (
    Attempt,
    Backoff,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    ExponentialBackoff,
)
from vpsbackups_async.client import BackupsClient, BackupStream, ClientStats, ServerStream
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    BackupDisappearedError,
    BackupFailedError,
    BackupInProgressError,
    BackupNeverAppearedError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    FleetError,
    InvalidResponseError,
    ManualBackupLimitError,
    NotAttemptedError,
    NotFoundError,
    PaginationError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseTooLargeError,
    ServerError,
    StalePlanError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WaitError,
    WaitTimeoutError,
    WrongEventLoopError,
)
from vpsbackups_async.models import (
    ALL_SERVERS,
    Account,
    Backup,
    BackupRef,
    BackupStatus,
    BackupType,
    Outcome,
    Page,
    Progress,
    Restore,
    Server,
    ServerRef,
    Sweep,
)

if TYPE_CHECKING:
    from vpsbackups_async._bulk.fan_out import fan_out
    from vpsbackups_async._durations import DurationHistory
    from vpsbackups_async._learned import LearnedBackoff
    from vpsbackups_async._pruning.plan import PrunePlan, ServerPlan
    from vpsbackups_async._pruning.rotation import Rotation
    from vpsbackups_async.fleet import Fleet
    from vpsbackups_async.retention import Retention

__all__ = [
    "ALL_SERVERS",
    "Account",
    "AdaptiveLimiter",
    "ApiError",
    "Attempt",
    "AuthenticationError",
    "Backoff",
    "Backup",
    "BackupDisappearedError",
    "BackupFailedError",
    "BackupInProgressError",
    "BackupNeverAppearedError",
    "BackupRef",
    "BackupStatus",
    "BackupStream",
    "BackupType",
    "BackupsClient",
    "BadRequestError",
    "ClientStats",
    "ConfigurationError",
    "ConflictError",
    "ConstantBackoff",
    "CreateOutcomeUnknownError",
    "DeadlineExceededError",
    "DecorrelatedJitterBackoff",
    "DurationHistory",
    "ExponentialBackoff",
    "Fleet",
    "FleetError",
    "InvalidResponseError",
    "LearnedBackoff",
    "Limiter",
    "LimiterState",
    "ManualBackupLimitError",
    "NotAttemptedError",
    "NotFoundError",
    "Observation",
    "Outcome",
    "Page",
    "PaginationError",
    "PermissionDeniedError",
    "Progress",
    "PrunePlan",
    "RateLimitStatus",
    "RateLimitedError",
    "RequestTimeoutError",
    "ResponseTooLargeError",
    "Restore",
    "Retention",
    "RetryPolicy",
    "Rotation",
    "Server",
    "ServerError",
    "ServerPlan",
    "ServerRef",
    "ServerStream",
    "StalePlanError",
    "Sweep",
    "Timeouts",
    "TransportError",
    "UnexpectedRedirectError",
    "VPSBackupsError",
    "WaitError",
    "WaitTimeoutError",
    "WrongEventLoopError",
    "fan_out",
    "from_json",
    "to_json",
]

if not TYPE_CHECKING:
    __getattr__ = on_first_use(
        __name__,
        {
            "vpsbackups_async._bulk.fan_out": ("fan_out",),
            "vpsbackups_async._durations": ("DurationHistory",),
            "vpsbackups_async._learned": ("LearnedBackoff",),
            "vpsbackups_async._pruning.plan": ("PrunePlan", "ServerPlan"),
            "vpsbackups_async._pruning.rotation": ("Rotation",),
            "vpsbackups_async.events": (),
            "vpsbackups_async.fleet": ("Fleet",),
            "vpsbackups_async.retention": ("Retention",),
        },
    )

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "events", "fleet", "retention"})
