"""Opens and closes a resource with an ASGI application that does not support lifespan itself.

The protocol is described in https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]


def with_lifespan(app: ASGIApp, resource: AbstractAsyncContextManager[object]) -> ASGIApp:
    """The application with the resource entered at its startup and exited at its shutdown.

    The lifespan events do not reach `app`. If the resource raises an exception when it is entered
    or exited, the server is told that the startup or shutdown failed.
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _run_lifespan(resource, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


async def _run_lifespan(
    resource: AbstractAsyncContextManager[object], receive: Receive, send: Send
) -> None:
    """Answer the server's startup and shutdown events while the resource is open."""
    await receive()  # lifespan.startup
    phase = "startup"
    try:
        async with resource:
            await send({"type": "lifespan.startup.complete"})
            phase = "shutdown"
            await receive()  # lifespan.shutdown
    except Exception as error:  # noqa: BLE001  # the server reports it and stops
        await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})
