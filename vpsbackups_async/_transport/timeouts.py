"""How long a call, one attempt of it, and a connection may take."""

from attrs import frozen

from vpsbackups_async._checks import check_number
from vpsbackups_async._values import Value

__all__ = ["Timeouts"]


@frozen(eq=False, repr=False)
class Timeouts(Value):
    """How long things may take, in seconds.

    `connect` is for reaching the server (DNS, TCP and TLS), `attempt` for one request from its
    start to the last byte of its answer, `deadline` for a whole call: its wait in the limiter, its
    attempts and the pauses between them. `keepalive` is how long the client keeps an idle
    connection for the next request. Raises `ValueError` for anything but numbers above 0.
    """

    connect: float = 10.0
    attempt: float = 30.0
    deadline: float = 120.0
    keepalive: float = 15.0

    def __attrs_post_init__(self) -> None:
        for name in ("connect", "attempt", "deadline", "keepalive"):
            check_number(name, getattr(self, name), above=0)
