"""Lets work that only waits leave its place among the items of a bulk job to others."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["leaves_place", "without_place"]

leaves_place: Final[ContextVar[Callable[[], AbstractAsyncContextManager[None]] | None]] = (
    ContextVar("leaves_place", default=None)
)
"""What leaves the place of the work that runs in this context, and takes one again at its end."""


@asynccontextmanager
async def without_place() -> AsyncGenerator[None]:
    """A block that takes no place; it ends once there is one again, at once if it fails."""
    leave = leaves_place.get()
    if leave is None:
        yield
    else:
        async with leave():
            yield
