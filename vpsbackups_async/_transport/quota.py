"""What a server tells of its rate limit in the headers of its answers."""

import re
import time
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from vpsbackups_async._transport.opening import header_name
from vpsbackups_async._values import Value
from vpsbackups_async._wire import date_of

__all__ = ["RateLimitStatus", "read_rate_limit", "tells_rate_limit"]

_NUMBER: Final = r"(?s)\s*([0-9]{1,15})(?:\.[0-9]*)?\s*(?:[,;].*)?"
_FIELD: Final = r"(?:^|[;,\s]){}\s*=\s*([0-9]{{1,15}})"
_X_REMAINING: Final = header_name("X-RateLimit-Remaining")
_REMAINING: Final = header_name("RateLimit-Remaining")
_JOINED: Final = header_name("RateLimit")
_EPOCH: Final = 10**9
"""From here on, a time of reset is a date in seconds since 1970, not a number of seconds."""


@frozen(eq=False, repr=False)
class RateLimitStatus(Value):
    """The rate limit as the server told it last, in the headers of an answer.

    `limit` is how many requests it allows in a window, `remaining` how many are left, `reset` in
    how many seconds the window ends, counted from that answer; each None if the server does not
    tell. The API documents no such headers.
    """

    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None


def tells_rate_limit(headers: Mapping[str, str]) -> bool:
    """Whether there may be something to read in these headers: the quick look at every answer."""
    return _X_REMAINING in headers or _REMAINING in headers or _JOINED in headers


def read_rate_limit(headers: Mapping[str, str]) -> RateLimitStatus | None:
    """The rate limit in these headers, None if there is none.

    `X-RateLimit-Limit`, `-Remaining` and `-Reset`, the same without `X-`, and `RateLimit` as the
    drafts of the IETF have it (`limit=10, remaining=4, reset=7` and `"name";r=4;t=7`).
    """
    joined = headers.get("RateLimit", "")
    limit = _named(headers, "Limit") or _field(joined, "limit")
    remaining = _named(headers, "Remaining") or _field(joined, "remaining|r")
    reset = _named(headers, "Reset") or _field(joined, "reset|t")
    if limit is None and remaining is None and reset is None:
        return None
    seconds = None if reset is None else float(reset)
    if seconds is not None and seconds >= _EPOCH:
        date = date_of(headers)
        seconds = max(0.0, seconds - (time.time() if date is None else date.timestamp()))
    return RateLimitStatus(_int(limit), _int(remaining), seconds)


def _named(headers: Mapping[str, str], name: str) -> str | None:
    text = headers.get(f"X-RateLimit-{name}") or headers.get(f"RateLimit-{name}") or ""
    found = re.fullmatch(_NUMBER, text)
    return None if found is None else found[1]


def _field(joined: str, names: str) -> str | None:
    found = re.search(_FIELD.format(f"(?:{names})"), joined)
    return None if found is None else found[1]


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)
