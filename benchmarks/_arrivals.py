"""A relay in a process of its own that notes when each create arrives, by the kernel's clock.

The kernel stamps what arrives at a socket at that moment, so that neither a stall of the relay nor
one of the server behind it moves the times. Needs Linux.
"""

import contextlib
import multiprocessing
import selectors
import socket
import struct
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Final

_STAMP: Final = 35
"""`SO_TIMESTAMPNS`, which Python does not name."""
_TIME: Final = struct.Struct("qq")
_CHUNK: Final = 1 << 18


class Relay:
    """What a relay has seen; `port` is where it listens on 127.0.0.1."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.port: int = pipe.recv()

    def creates(self) -> list[float]:
        """When the creates arrived so far, in seconds since 1970, in order."""
        self._pipe.send("creates")
        return sorted(self._pipe.recv())


@contextlib.contextmanager
def relaying(port: int) -> Iterator[Relay]:
    """A relay to this port of 127.0.0.1 during the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_relay, args=(theirs, port), daemon=True)
    process.start()
    theirs.close()  # so that its end is seen here
    try:
        yield Relay(ours)
    finally:
        process.kill()
        process.join()


def _relay(pipe: Connection, port: int) -> None:
    creates: list[float] = []
    others: dict[socket.socket, socket.socket] = {}
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.SOL_SOCKET, _STAMP, 1)  # which accepted sockets inherit
    selector.register(listener, selectors.EVENT_READ)
    selector.register(pipe, selectors.EVENT_READ)
    pipe.send(listener.getsockname()[1])
    while True:
        for key, _ in selector.select():
            if key.fileobj is pipe:
                pipe.recv()
                pipe.send(creates)
            elif key.fileobj is listener:
                ours, _ = listener.accept()
                ours.setsockopt(socket.SOL_SOCKET, _STAMP, 1)
                theirs = socket.create_connection(("127.0.0.1", port))
                others[ours], others[theirs] = theirs, ours
                for one in (ours, theirs):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(one, selectors.EVENT_READ)
            elif isinstance(source := key.fileobj, socket.socket) and source in others:
                if _forward(source, others[source], creates):
                    continue
                for one in (source, others.pop(source)):
                    others.pop(one, None)
                    selector.unregister(one)
                    one.close()


def _forward(source: socket.socket, target: socket.socket, creates: list[float]) -> bool:
    """Pass on what has arrived; False at the end of the connection."""
    try:
        data, stamps, _, _ = source.recvmsg(_CHUNK, 64)
        target.sendall(data)
    except OSError:
        return False
    if data.startswith(b"POST "):  # each request is sent in one piece, after the reply before it
        seconds, nanoseconds = _TIME.unpack(stamps[0][2])
        creates.append(seconds + nanoseconds / 1e9)
    return bool(data)
