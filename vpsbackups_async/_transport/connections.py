"""Which connection may carry which request, and what is left out of an answer without content."""

import asyncio
import re
from typing import Final, Protocol

__all__ = ["HeadReader", "UnfitConnectionError", "UsedConnection", "take"]


class UnfitConnectionError(Exception):
    """Nothing was sent: the connection is to be closed, and another one taken."""


class _Reader(Protocol):
    """The part of aiohttp's protocol that is used here."""

    def data_received(self, data: bytes, /) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, error: Exception | None, /) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def force_close(self) -> None: ...


class _Relay(asyncio.Protocol):
    """Stands before the reader of a connection, and passes on what it hears of that."""

    __slots__ = ("_reader",)

    def __init__(self, transport: asyncio.Transport, reader: _Reader) -> None:
        self._reader = reader
        transport.set_protocol(self)

    def eof_received(self) -> bool | None:
        """Pass on the end of what the server sends."""
        return self._reader.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass on the end of the connection."""
        self._reader.connection_lost(error)

    def pause_writing(self) -> None:
        """Pass on that the connection takes no more for now."""
        self._reader.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the connection takes more again."""
        self._reader.resume_writing()

    def force_close(self) -> None:
        """Let the connection be closed after the answer."""
        self._reader.force_close()


class UsedConnection(_Relay):
    """Tells whether bytes came on a connection while it was idle.

    aiohttp shows of them only what is a whole head: its parser keeps a blank line, or the begin of
    a head, for the next answer.
    """

    __slots__ = ("_read", "_received", "_user")

    def __init__(self, transport: asyncio.Transport, reader: _Reader) -> None:
        super().__init__(transport, reader)
        self._received = self._read = 0
        self._user: object = None

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        self._received += 1
        self._reader.data_received(data)

    def begin(self, user: object) -> bool:
        """Carry a request of `user`; False if something came since the last answer.

        While the end of that was not noted yet, what came is of the answer.
        """
        if self._received != self._read and self._user is None:
            return False
        self._user = user
        return True

    def rest(self, user: object) -> None:
        """Note that the answer to `user` has come, unless another one has the connection now."""
        if self._user is user:
            self._user = None
            self._read = self._received


def take(
    transport: asyncio.Transport, reader: _Reader, user: object, *, idempotent: bool
) -> UsedConnection:
    """Use a connection for a request of `user`, who has to call `rest` in the end.

    Some servers close an idle connection, or each one after its answer, without announcing it. A
    request that is sent at that moment may or may not be carried out, and nobody can tell. So a
    request that is not idempotent goes out on a connection that was never used. That costs a
    handshake for each create and restore. With a session or connector of the caller's it also costs
    the idle connections, all of which aiohttp offers, and closes, before it opens one.

    Raises `UnfitConnectionError` if the request needs another connection: for that reason, or as
    bytes came on it that no request asked for, which would be taken for the answer.
    """
    connection = transport.get_protocol()
    if not isinstance(connection, UsedConnection):
        connection = UsedConnection(transport, reader)
    elif not idempotent:
        raise UnfitConnectionError
    if not connection.begin(user):
        raise UnfitConnectionError
    return connection


_MAX_HEAD: Final = 64 * 1024
# These are compiled on first use, as few answers need them.
_START: Final = rb"HTTP/1\.[01] +(?:1\d\d|204)\b"
_MAX_START: Final = 32
_HAS_BODY: Final = rb"(?i)\r\n(?:content-length:\s*0*[1-9]|transfer-encoding:)"


class HeadReader(_Relay):
    """Reads the head of an answer before aiohttp does, and leaves out the body of a 204.

    A 204 has no body (RFC 9110, 15.3.5). If one comes all the same, aiohttp takes it for the next
    answer, finds that it is none, and loses the 204 as well. Everything else is passed on.
    """

    __slots__ = ("_connection", "_transport", "_unread")

    def __init__(self, transport: asyncio.Transport, connection: UsedConnection) -> None:
        super().__init__(transport, connection)
        self._transport = transport
        self._connection = connection
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        """Pass on what came, once the head shows whether it is that of a 204."""
        self._unread += data
        while self._is_held_back():
            head, end, rest = self._unread.partition(b"\r\n\r\n")
            if not end:
                return
            self._unread = rest
            if b" 204" in head[:_MAX_START]:
                if rest or re.search(_HAS_BODY, head):
                    self._reader.force_close()
                self._unread = b""
                self._let_go(head + end)
                return
            self._reader.data_received(head + end)  # a 1xx: another head follows
        if self._unread:
            self._let_go(self._unread)

    def _is_held_back(self) -> bool:
        """Whether the bytes so far may be the begin of an answer without a body."""
        start = self._unread[:_MAX_START]
        if len(start) < _MAX_START and b"\r" not in start:
            return b"HTTP/1."[: len(start)] == start[:7]
        return len(self._unread) <= _MAX_HEAD and re.match(_START, start) is not None

    def _let_go(self, data: bytes) -> None:
        """Give the connection back to its reader, with what it has not read."""
        self._transport.set_protocol(self._connection)
        if data:
            self._connection.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on the end of what the server sends."""
        self._let_go(self._unread)
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass on the end of the connection."""
        self._let_go(self._unread)
        super().connection_lost(error)
