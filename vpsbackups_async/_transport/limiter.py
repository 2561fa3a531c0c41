"""What lets requests through: the `Limiter` protocol, and what a limiter is told."""

from typing import Protocol

from attrs import frozen

__all__ = ["Limiter", "Observation"]


@frozen
class Observation:
    """How a request that was let through ended, told to the `Limiter` that let it through.

    `kind` is what it was for (`list`, `create`, `delete`, `restore`), `cost` what was acquired for
    it, `status` the HTTP status (None if no answer came), `retry_after` the seconds that the answer
    asked to wait (None if it did not), `elapsed` the seconds from `acquire` to the end.
    """

    kind: str
    cost: int = 1
    status: int | None = None
    retry_after: float | None = None
    elapsed: float = 0.0


class Limiter(Protocol):
    """Lets requests through, one `acquire` each, and hears how each one ended.

    Several clients of one event loop may share a limiter: together they stay within it. Where a
    limiter has a method `try_acquire(cost, kind)` as well, that is asked first: it lets the request
    through at once and returns True, or returns False.
    """

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Return once the request may start; must be safe to cancel while it waits."""
        ...

    def observe(self, outcome: Observation) -> None:
        """Hear of the end of a request; called exactly once for each that was let through."""
        ...
