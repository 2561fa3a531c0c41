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

    def refuse(self, admitted: bool, rate: float | None, now: float, status: int) -> Answer | None:
        """The refusal of a request that exceeds a limit, else None.

        ``admitted`` is what `track` yielded for it, ``rate`` the limit in requests per second,
        ``now`` its time of arrival in seconds, and ``status`` that of the refusal.
        """
        headers = {"Retry-After": "1"} if status == 429 else {}
        if not admitted:
            return problem(status, "Too many requests at a time.", headers)
        if rate is not None and not self._bucket.take(rate, now):
            detail = "Request was throttled. Expected available in 1 second."
            return problem(status, detail, headers)
        return None
