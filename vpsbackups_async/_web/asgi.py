"""The lifespan of an ASGI application, for one that knows none of its own.

The protocol: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]


def with_lifespan(app: ASGIApp, resource: AbstractAsyncContextManager[object]) -> ASGIApp:
    """The application, with the resource entered at its startup and left at its shutdown."""

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(resource, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


async def _live(
    resource: AbstractAsyncContextManager[object], receive: Receive, send: Send
) -> None:
    await receive()  # the startup
    phase = "startup"
    try:
        async with resource:
            await send({"type": "lifespan.startup.complete"})
            phase = "shutdown"
            await receive()
    except Exception as error:  # noqa: BLE001  # the server reports it, and stops
        await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})
