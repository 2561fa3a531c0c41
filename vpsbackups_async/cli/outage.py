"""Since when requests fail, and why, for as long as they do."""

import time
from datetime import UTC, datetime
from typing import Final, NamedTuple

from vpsbackups_async.cli.ends import explain
from vpsbackups_async.cli.text import clock
from vpsbackups_async.events import AttemptEnded, Event, RetryScheduled, WaitPolled

__all__ = ["Outage"]

_FIRST_ERROR: Final = 400


class _Failing(NamedTuple):
    what: str
    moment: datetime
    since: float  # by the monotonic clock, in seconds
    error: Exception


class Outage:
    """Follows the events of a client, and tells what fails now, if anything does.

    Requests of a kind fail from the first one that is to be repeated to the next one that succeeds,
    looks at a list from the first that failed to the next that did not.
    """

    def __init__(self) -> None:
        self._failing: dict[object, _Failing] = {}

    def on_event(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, RetryScheduled):
            self._failed(event.kind, "requests", event.error)
        elif isinstance(event, AttemptEnded):
            if event.error is None and event.status is not None and event.status < _FIRST_ERROR:
                self._failing.pop(event.kind, None)
        elif isinstance(event, WaitPolled):
            key = ("look", event.server_id)
            if event.error is None:
                self._failing.pop(key, None)
            else:
                self._failed(key, "looks", event.error)

    def _failed(self, key: object, what: str, error: Exception) -> None:
        before = self._failing.get(key)
        if before is None:
            self._failing[key] = _Failing(what, datetime.now(UTC), time.monotonic(), error)
        else:
            self._failing[key] = before._replace(error=error)

    def text(self) -> str:
        """What fails longest, since when and why, in one line; empty if nothing does."""
        if not self._failing:
            return ""
        first = min(self._failing.values(), key=lambda failing: failing.since)
        since = f"{first.moment:%H:%M:%S} UTC ({clock(time.monotonic() - first.since)})"
        return f"{first.what} fail since {since}: {explain(first.error)}"
