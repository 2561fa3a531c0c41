"""A monitor for pings, by the convention of healthchecks.io."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class _Monitor(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.pings.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def monitoring() -> Iterator[Any]:
    """A monitor whose `pings` are the paths and bodies that it got; it answers with `status`."""
    with HTTPServer(("127.0.0.1", 0), _Monitor) as server:
        made: Any = server
        made.pings, made.status = [], 200
        made.url = f"http://127.0.0.1:{server.server_port}/ping/secret-uuid"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()
