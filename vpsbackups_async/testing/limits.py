"""Rate and concurrency limits, as a gateway in front of the API enforces them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .clock import Bucket
from .replies import Answer, problem

__all__ = ["Limits"]


class Limits:
    """Counts requests in flight and refuses those beyond a limit.

    ``peak`` is the highest number in flight at the same time, including refused requests.
    """

    def __init__(self) -> None:
        self.peak: int = 0
        self._in_flight = 0
        self._admitted = 0
        self._bucket = Bucket()

    @contextmanager
    def track(self, maximum: int | None) -> Iterator[bool]:
        """Count a request as in flight during the block; yield whether ``maximum`` allows it."""
        admitted = maximum is None or self._admitted < maximum
        self._in_flight += 1
        self._admitted += admitted
        self.peak = max(self.peak, self._in_flight)
        try:
            yield admitted
        finally:
            self._in_flight -= 1
            self._admitted -= admitted

    def refuse(self, admitted: bool, rate: float | None, now: float) -> Answer | None:
        """A 429 if a request exceeds a limit, else None.

        ``admitted`` is what `track` yielded for it, ``rate`` the limit in requests per second, and
        ``now`` its time of arrival in seconds.
        """
        if not admitted:
            return problem(429, "Too many requests at a time.", {"Retry-After": "1"})
        if rate is not None and not self._bucket.take(rate, now):
            detail = "Request was throttled. Expected available in 1 second."
            return problem(429, detail, {"Retry-After": "1"})
        return None
