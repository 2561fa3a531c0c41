"""What a client tells its `on_event` callback: frozen values, one class for each kind of event.

Import them from this module; more kinds may come, so a callback must pass over those it does not
know.
"""

import logging
from asyncio import CancelledError
from collections.abc import Callable

from attrs import frozen

from vpsbackups_async.models import Backup

__all__ = ["CreateEnded", "Event", "OnEvent"]

logger: logging.Logger = logging.getLogger("vpsbackups_async")


@frozen
class CreateEnded:
    """A create ended: with the backup that was started, or with the error that was raised.

    The backup may be one that was there already, where that is what was asked for (by `ensure`,
    `if_running="adopt"` or a marker of the caller's own).

    `caller_cancelled` is True if the task that called `create` was cancelled meanwhile: the event
    is then the only place where the backup can be learned. If `close()` had to cut it short, the
    error is a `CreateOutcomeUnknownError`.
    """

    server_id: int
    backup: Backup | None = None
    error: Exception | None = None
    caller_cancelled: bool = False


Event = CreateEnded
"""Any event."""

OnEvent = Callable[[Event], object]
"""A callback for events: it is called in the event loop, and must return at once."""


def emitter(on_event: OnEvent | None) -> Callable[[Event], None]:
    """A function that hands an event to the callback; what the callback raises is logged."""

    def emit(event: Event) -> None:
        if on_event is None:
            return
        try:
            on_event(event)
        except (Exception, CancelledError):  # the caller's code; it cancels no task of ours
            logger.exception("on_event failed for %r", event)

    return emit
