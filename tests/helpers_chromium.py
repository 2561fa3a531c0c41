"""Open a page in headless Chromium, from a server on loopback that records what is requested."""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr",
)  # fmt: skip


class Opened:
    """A page as Chromium left it.

    `dom` is its HTML, `console` the lines of its console, `paths` what it requested.
    """

    def __init__(self, dom: str, log: str, paths: list[str]) -> None:
        self.dom = dom
        self.console = [line for line in log.splitlines() if "CONSOLE" in line]
        self.paths = paths


def opened(page: str, *options: str) -> Opened:
    """Open the page in a new Chromium with a new profile; `options` are further ones of it."""
    with _serving(page) as server, tempfile.TemporaryDirectory() as profile:
        url = f"http://127.0.0.1:{server.server_port}/"
        command = [str(CHROMIUM), *_OPTIONS, f"--user-data-dir={profile}", *options]
        done = subprocess.run(
            [*command, "--dump-dom", url], capture_output=True, text=True, check=True, timeout=50
        )
        return Opened(done.stdout, done.stderr, server.paths)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(server.page)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def _serving(page: str) -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        made: Any = server
        made.page, made.paths = page.encode(), []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
