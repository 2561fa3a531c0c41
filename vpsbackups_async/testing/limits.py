"""What a gateway in front of the API refuses: too many requests, or too many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .clock import Bucket
from .replies import Answer, problem

__all__ = ["Limits"]


class Limits:
    """Counts requests in flight, and refuses by number and by rate.

    ``peak`` is the most that were in flight at one time, refused ones included.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._flying = 0
        self._admitted = 0
        self._bucket = Bucket()

    @contextmanager
    def flight(self, most: int | None) -> Iterator[bool]:
        """Whether one more request is within ``most`` at a time; it is in flight meanwhile."""
        admitted = most is None or self._admitted < most
        self._flying += 1
        self._admitted += admitted
        self.peak = max(self.peak, self._flying)
        try:
            yield admitted
        finally:
            self._flying -= 1
            self._admitted -= admitted

    def refuse(self, admitted: bool, rate: float | None, now: float) -> Answer | None:
        """A 429 for a request at ``now`` (seconds) that is too much, or None."""
        if not admitted:
            return problem(429, "Too many requests at a time.", {"Retry-After": "1"})
        if rate is not None and not self._bucket.take(rate, now):
            detail = "Request was throttled. Expected available in 1 second."
            return problem(429, detail, {"Retry-After": "1"})
        return None
