"""One HTTP exchange: with `opening` and `reasons`, the only module that touches aiohttp's client.

None of aiohttp's exceptions and answers leave it, as their frames and fields hold the token.
"""

import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any, Final, TypeAlias

import aiohttp
import msgspec
from aiohttp.connector import Connection
from yarl import URL

from vpsbackups_async._transport.calls import AttemptFailure, AttemptResult
from vpsbackups_async._transport.connections import (
    HeadReader,
    UnfitConnectionError,
    UsedConnection,
    take,
)
from vpsbackups_async._transport.opening import (
    ClientSession,
    ClientTimeout,
    CompleteRequest,
    is_as_aiohttp_made_it,
)
from vpsbackups_async._transport.reasons import described
from vpsbackups_async._transport.secrets import Redactor, Secret
from vpsbackups_async._transport.telemetry import tag_attempt
from vpsbackups_async._wire import Policy, Request

__all__ = ["Channel", "Exchange"]

_Sending: TypeAlias = Coroutine[Any, Any, aiohttp.ClientResponse]
_Send: TypeAlias = Callable[[Connection], _Sending]

_ERROR_BODY_BYTES: Final = 64 * 1024
"""Bytes read of the body of an answer that is no success."""


class Channel(msgspec.Struct, frozen=True):
    """The open sessions, and what every request through them is sent with.

    `unused` opens a connection for each request; where the session or connector is the caller's, it
    is the same session. `direct` is whether requests need no session but its headers: nobody else
    takes part in them. `middlewares` are those of a session that was given. `body_headers` are for
    requests with a body. `max_bytes` is the largest decoded body of a success that is read.
    """

    session: ClientSession
    unused: ClientSession
    direct: bool
    middlewares: Sequence[aiohttp.ClientMiddlewareType]
    mask: Redactor
    url: Callable[[str, str], URL]
    headers: Mapping[str, str]
    body_headers: Mapping[str, str]
    ssl: ssl_module.SSLContext | bool
    proxy: Secret | None
    max_bytes: int


class _Failed(Exception):  # noqa: N818  # never leaves this module
    """Carries a failure through aiohttp in place of its own exception."""

    def __init__(self, failure: AttemptFailure) -> None:
        super().__init__(failure.words)
        self.failure = failure


class Exchange(AttemptResult):
    """One attempt: sends the request, reads the answer, and is the result.

    It is also the aiohttp client middleware of its own request. aiohttp sends a GET or DELETE once
    more by itself when its connection broke, unless a middleware changes the exception's type; and
    only a middleware can see whether the request was written.
    """

    __slots__ = ("_connection", "_mask", "_policy")
    _connection: UsedConnection | None
    _mask: Redactor
    _policy: Policy

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: aiohttp.ClientHandlerType,
    ) -> aiohttp.ClientResponse:
        """Pass the request on to aiohttp, once."""
        if self.number > 1:
            tag_attempt(self.number)
        # The one place that knows the connection before anything is written to it.
        send_if_fit = partial(self._send_if_fit, request.send)
        request.send = send_if_fit  # type: ignore[method-assign]
        try:
            while True:
                try:
                    return await handler(request)
                except UnfitConnectionError:  # aiohttp closed it; the next one may be fit
                    continue
        except Exception as error:  # noqa: BLE001  # also what a given session's own hooks raise
            failed = _Failed(described(error, self._mask))
        finally:
            del request.send
            # aiohttp sets it right after the request line and headers were handed to the socket.
            self.sent = request.response is not None
        raise failed

    def _send_if_fit(self, send: _Send, connection: Connection) -> _Sending:
        """Send on the connection; raises `UnfitConnectionError` unless it is fit for that."""
        protocol, policy = connection.protocol, self._policy
        if protocol is not None and protocol.transport is not None:
            transport = protocol.transport
            self._connection = take(transport, protocol, self, idempotent=policy.idempotent)
            if policy.success_by_status:
                HeadReader(transport, self._connection)
        return send(connection)

    def _rest(self) -> None:
        """Leave the connection to the next request, if one was taken."""
        if self._connection is not None:
            self._connection.rest(self)
            self._connection = None

    async def run(self, channel: Channel, request: Request, timeout: ClientTimeout) -> None:
        """Send the request and read its answer; what goes wrong becomes `failure`."""
        self._policy = request.policy
        self._connection = None
        self.tried = True
        response: aiohttp.ClientResponse | None = None
        self._mask = channel.mask
        session = channel.session if request.policy.idempotent else channel.unused
        try:
            if channel.direct and is_as_aiohttp_made_it():
                response = await self._send_directly(session, channel, request, timeout)
            else:
                response = await self._through_session(session, channel, request, timeout)
            cap = channel.max_bytes if response.status < 300 else _ERROR_BODY_BYTES
            if not self._take(response, cap):
                await self._read(response.content, cap)
        except _Failed as failed:
            self.failure = failed.failure
        except Exception as error:  # noqa: BLE001  # also what a given session's own hooks raise
            self.failure = described(error, channel.mask)
        finally:
            self._rest()
            if response is not None and not (self.whole and response.status < 300):
                self._clean_up(response, channel)

    async def _send_directly(
        self, session: ClientSession, channel: Channel, request: Request, timeout: ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Send in the steps that aiohttp's session takes, and in no others.

        What the session does around them is a seventh of a request's instructions, and none of it
        is needed here: redirects, cookies, a timer, hooks, the second try that `__call__` prevents.
        """
        connector = session.connector
        if connector is None or connector.closed:
            raise RuntimeError("Session is closed")
        headers = session.headers.copy()
        if request.body is not None:
            headers.update(channel.body_headers)
        sending = CompleteRequest(
            request.method,
            channel.url(request.path, request.query),
            headers=headers,
            data=request.body,
            session=session,
            ssl=channel.ssl,
        )
        try:
            while True:
                try:
                    connection = await connector.connect(sending, [], timeout)
                except TimeoutError:
                    raise aiohttp.ConnectionTimeoutError from None
                try:
                    return await self._answered(sending, connection)
                except UnfitConnectionError:  # the next one may be fit
                    continue
        finally:
            self.sent = sending.response is not None

    async def _answered(
        self, sending: CompleteRequest, connection: Connection
    ) -> aiohttp.ClientResponse:
        """Send on this connection, and read the head of the answer; on failure it is closed."""
        response: aiohttp.ClientResponse | None = None
        try:
            protocol = connection.protocol
            if protocol is not None:
                protocol.set_response_params(read_until_eof=True)
            response = await self._send_if_fit(sending.send, connection)
            return await response.start(connection)
        except BaseException:
            connection.close()
            if response is not None:
                response.close()
            raise

    def _through_session(
        self, session: ClientSession, channel: Channel, request: Request, timeout: ClientTimeout
    ) -> Awaitable[aiohttp.ClientResponse]:
        """The request as aiohttp's session sends it, to be awaited; this is its middleware."""
        middlewares: Sequence[aiohttp.ClientMiddlewareType] = (*channel.middlewares, self)
        return session.request(
            request.method,
            channel.url(request.path, request.query),
            data=request.body,
            headers=channel.headers if request.body is None else channel.body_headers,
            timeout=timeout,
            ssl=channel.ssl,
            proxy=channel.proxy,
            allow_redirects=False,
            raise_for_status=False,
            middlewares=middlewares,
        )

    def _take(self, response: aiohttp.ClientResponse, cap: int) -> bool:
        """Take what is there of an answer; whether that is all of it."""
        status = response.status
        if status < 200:  # aiohttp gives a 101 for the final one, and its body has no end
            words = f"the server answered with status {status}, after which an answer must follow"
            self.failure = AttemptFailure(words)
            return True
        self.status = status
        self.headers = response.headers
        content = response.content
        if not content.is_eof():
            return False
        self.body = content.read_nowait()  # most answers have arrived whole by now
        self.size = len(self.body)
        self.whole = self.size <= cap
        return True

    async def _read(self, content: aiohttp.StreamReader, cap: int) -> None:
        """Read the body up to `cap` decoded bytes: a small gzip can hold gigabytes."""
        buffer = BytesIO()  # unlike a list of chunks, it takes no second copy at the end
        try:
            while self.size <= cap and (chunk := await content.readany()):
                self.size += len(chunk)
                buffer.write(chunk)
        finally:
            self.body = buffer.getvalue()
        self.whole = self.size <= cap

    def _clean_up(self, response: aiohttp.ClientResponse, channel: Channel) -> None:
        """Finish an answer that is not whole or no success."""
        if not self.whole:
            response.close()
        if response.status >= 300:
            self.body = self.body[:_ERROR_BODY_BYTES]
        elif self.size > channel.max_bytes:
            words = f"the answer is larger than {channel.max_bytes} bytes"
            self.failure = AttemptFailure(words, "too large")
