"""Why aiohttp brought no answer, in words; its exceptions do not leave here and `exchange`."""

import os
import ssl as ssl_module
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from vpsbackups_async._transport.calls import AttemptFailure, proxy_failure
from vpsbackups_async._transport.secrets import Redactor

__all__ = ["described"]

_WORDS: Final[Sequence[tuple[type[Exception], Callable[[Any], str]]]] = (
    (
        aiohttp.ClientConnectorCertificateError,
        lambda error: f"the certificate of {error.host} is not trusted: {_untrusted(error)}",
    ),
    (aiohttp.ConnectionTimeoutError, lambda _: "no connection in time"),
    (
        aiohttp.ServerDisconnectedError,
        lambda _: "the server closed the connection without an answer",
    ),
    (
        aiohttp.ClientPayloadError,
        lambda error: _undecodable(error) or "the connection ended in the middle of the answer",
    ),
    (TimeoutError, str),
    (
        aiohttp.ClientResponseError,
        lambda error: _undecodable(error) or f"the answer is not HTTP: {error.message}",
    ),
    (
        aiohttp.ClientProxyConnectionError,
        lambda error: (
            f"no connection to the proxy {error.host}:{error.port}: {_of_system(error.os_error)}"
        ),
    ),
    (
        aiohttp.ClientConnectorError,
        lambda error: f"no connection to {error.host}:{error.port}: {_of_system(error.os_error)}",
    ),
    (OSError, lambda error: f"the connection broke: {_of_system(error)}"),
    (Exception, lambda error: f"{type(error).__name__}: {error}"),
)


def _of_system(error: OSError) -> str:
    """The system's words for an error; aiohttp's tell of Python's sockets and contexts."""
    if isinstance(error, ssl_module.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _untrusted(error: aiohttp.ClientConnectorCertificateError) -> str:
    """Why a certificate is not trusted."""
    why = error.certificate_error
    return getattr(why, "verify_message", "") or str(why)


def _undecodable(error: BaseException | None) -> str | None:
    """The words for a body that its Content-Encoding does not fit; None for other errors."""
    while error is not None:
        if isinstance(error, ContentEncodingError):
            return f"the body cannot be decoded: {error.message}"
        error = error.__cause__
    return None


def described(error: Exception, mask: Redactor) -> AttemptFailure:
    """The failure for an exception of aiohttp or of a given session's own hooks."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_failure(error.status)
    words = next(words(error) for kind, words in _WORDS if isinstance(error, kind))
    cause: Literal["connection", "timeout", "untrusted", "misuse"] = "connection"
    if isinstance(error, TimeoutError):
        cause = "timeout"
    elif isinstance(
        error, aiohttp.ClientConnectorCertificateError | aiohttp.ServerFingerprintMismatch
    ):
        cause = "untrusted"
    elif isinstance(error, aiohttp.InvalidURL) or not isinstance(
        error, aiohttp.ClientError | OSError
    ):
        cause = "misuse"
    return AttemptFailure(mask(words), cause)
