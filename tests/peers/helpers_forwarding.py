"""A WSGI application that passes requests on to the server at `ORIGIN`.

It runs inside the application server under test; what it does is counted at the origin.
"""

import http.client
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Answer = tuple[int, list[tuple[str, str]], bytes]

PASSED_ON = frozenset({"content-type", "retry-after", "x-request-id", "location"})


def forward(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """The origin's answer to a request."""
    connection = http.client.HTTPConnection(os.environ["ORIGIN"], timeout=30)
    try:
        connection.request(method, target, body or None, dict(headers))
        reply = connection.getresponse()
        passed_on = [pair for pair in reply.getheaders() if pair[0].lower() in PASSED_ON]
        return reply.status, passed_on, reply.read()
    finally:
        connection.close()


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    target = environ["PATH_INFO"]
    if environ.get("QUERY_STRING"):
        target += "?" + environ["QUERY_STRING"]
    headers = {
        "Host": environ["HTTP_HOST"],
        "Authorization": environ.get("HTTP_AUTHORIZATION", ""),
        "Content-Type": environ.get("CONTENT_TYPE", ""),
    }
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status, sent, content = forward(environ["REQUEST_METHOD"], target, headers, body)
    length = [] if status == 204 else [("Content-Length", str(len(content)))]
    start_response(f"{status} {http.client.responses[status]}", [*sent, *length])
    return [content]
