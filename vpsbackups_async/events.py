"""What a client tells its `on_event` callback: frozen values, one class for each kind of event.

Import them from this module; more kinds may come, so a callback must pass over those it does not
know. Times are in seconds. `kind` is the kind of request: `list`, `create`, `delete`, `restore` or
`account`. No event holds the token; backups are as the server sent them. The callback is called in
the event loop and must return at once; what it raises is logged and breaks nothing. While nobody
listens, no event is made.

```python
from vpsbackups_async import BackupsClient, events


def on_event(event: events.Event) -> None:
    match event:
        case events.RetryScheduled(kind=kind, error=error, pause=pause):
            print(f"{kind} again in {pause:.1f} s, after {type(error).__name__}")
        case events.GateClosed(seconds=seconds):
            print(f"the server asks to slow down: nothing is sent for {seconds:.0f} s")
        case events.CreateEnded(backup=backup, existing=False) if backup is not None:
            print(f"backup {backup.id} was started")
        case _:  # the others, and those that are yet to come
            pass


async with BackupsClient(on_event=on_event) as client:
    await client.create(12345)
```

## Metrics

Where the application has set an OpenTelemetry meter provider before a client's first request
(extra `otel`), there are these metrics, with `server.address` and `server.port`:

- `http.client.request.duration`: a histogram (s) of attempts, with the attributes of
  OpenTelemetry's convention for HTTP clients.
- `vpsbackups.client.retries`: a counter, by `vpsbackups.request.kind` and `error.type`.
- `vpsbackups.client.rate_limited`: a counter of the 429s, by `vpsbackups.request.kind`.
- `vpsbackups.client.limiter.wait.duration`: a histogram (s) of the calls that had to wait, by
  `vpsbackups.request.kind`.
- `vpsbackups.client.limiter.limit`: a gauge of the limit now, added up over limiters.
- `vpsbackups.client.waits`: an up-down counter of the waits that run now.

The aiohttp instrumentation may record `http.client.request.duration` too, under its own scope: pick
one of the two.
"""

import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterable

from attrs import frozen

from vpsbackups_async.models import Backup, BackupStatus

__all__ = [
    "AttemptEnded",
    "BackupCompleted",
    "CallHeld",
    "CreateEnded",
    "CreateSettled",
    "DeletionEnded",
    "Event",
    "GateClosed",
    "GateOpened",
    "OnEvent",
    "RetryScheduled",
    "WaitPolled",
]

logger: logging.Logger = logging.getLogger("vpsbackups_async")


@frozen
class Event:
    """Any event; the base class of all."""


@frozen
class AttemptEnded(Event):
    """A request was sent once, or could not be sent, and that ended.

    `number` counts the attempts of the call from 1. `status` is that of the answer, None if none
    came. `error` is why no whole answer came, else None: "timeout", "connection", "untrusted" (a
    certificate), "misuse" (a session or proxy that aiohttp cannot send with), "too large" or
    "cancelled". `seconds` are those of this attempt, without any wait before it; `size` is the
    number of decoded bytes that were read of the answer's body.
    """

    kind: str
    method: str
    path: str
    number: int
    status: int | None
    error: str | None
    seconds: float
    size: int


@frozen
class RetryScheduled(Event):
    """Attempt `number` of a call failed with `error`; the next one follows in `pause` seconds.

    A create after a 503 or without an answer follows at once, after looks that found nothing of it.
    """

    kind: str
    method: str
    path: str
    number: int
    error: Exception
    pause: float


@frozen
class CallHeld(Event):
    """A call has waited for so many seconds until it might send, or gave up waiting.

    It waits for the client's limiter: for a free place, or while the gate is closed. With a
    connector that clients share it also waits for a connection. Waits below a millisecond are not
    told.
    """

    kind: str
    method: str
    path: str
    seconds: float


@frozen
class GateClosed(Event):
    """The limiter lets no request of this kind through for so many seconds; None is every kind.

    `status` is that of the answer to this client which closed it: 429, or 503 for a server that is
    busy. It is told again if a later answer puts off the end by more than a second.
    """

    kind: str | None
    seconds: float
    status: int


@frozen
class GateOpened(Event):
    """The limiter lets requests of this kind through again, `seconds` after it closed."""

    kind: str | None
    seconds: float


@frozen
class CreateEnded(Event):
    """A create ended: with the backup that was started, or with the error that was raised.

    `existing` is True if the backup was there already and none was started, where that is what was
    asked for (by `ensure`, `if_running="adopt"` or a marker of the caller's own).

    `caller_cancelled` is True if the task that called `create` was cancelled meanwhile: the event
    is then the only place where the backup can be learned. If `close()` had to cut it short, the
    error is a `CreateOutcomeUnknownError`.
    """

    server_id: int
    backup: Backup | None = None
    error: Exception | None = None
    caller_cancelled: bool = False
    existing: bool = False


@frozen
class CreateSettled(Event):
    """The backup of a create without an answer was found by looking, in the call or by `settle`.

    `certain` is whether it must be that of the create; otherwise it was taken for it as the only
    one with the same description and about the same time.
    """

    server_id: int
    backup: Backup
    certain: bool


@frozen
class BackupCompleted(Event):
    """A wait ended with this backup, which is completed."""

    backup: Backup


@frozen
class DeletionEnded(Event):
    """A deletion by a policy (`apply`, `rotate`) ended, after all attempts, or was cut short.

    `deleted` is True if the server said that the backup is deleted, or is gone already; False if
    it is certainly not by this call; and None if it may be: `error` is then in doubt, or None where
    the task was cancelled. No list was read yet to confirm it.
    """

    backup: Backup
    deleted: bool | None
    error: Exception | None = None


@frozen
class WaitPolled(Event):
    """A look for backups that are waited for ended.

    It was at the list of one server, or at that of all (`server_id` is None), took `requests`
    answered requests and showed the statuses in `found`, each with its backup's id. `error` is why
    it failed; with no requests it was put off, for its list fails.
    """

    server_id: int | None
    requests: int
    found: tuple[tuple[int, BackupStatus], ...]
    error: Exception | None


OnEvent = Callable[[Event], object]
"""A callback for events: it is called in the event loop, and must return at once."""


def emitter(hearers: Iterable[OnEvent]) -> OnEvent:
    """A function that hands an event to all of these; what they raise is logged."""
    told = tuple(hearers)

    def emit(event: Event) -> None:
        for hear in told:
            try:
                hear(event)
            except (Exception, CancelledError):  # the caller's code; it cancels no task of ours
                # Not the event itself: what is of the server's own text may hold a secret.
                logger.exception("on_event failed for %s", type(event).__name__)

    return emit
