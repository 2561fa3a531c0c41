"""Tells a monitor how a run goes, by the convention of healthchecks.io.

`URL/start` at the start, `URL` after success, `URL/fail` after anything else, with a line that says
why. What goes wrong with that is a note, and never breaks the run.
"""

import urllib.error
import urllib.request
from http.client import HTTPException
from types import TracebackType
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

from vpsbackups_async.cli.ends import UsageError, explain
from vpsbackups_async.cli.screen import Screen

__all__ = ["Pings"]

_SECONDS: Final = 10.0
"""The timeout of a ping."""
_TRIES: Final = 2
_MOST: Final = 10_000
"""The most bytes that are sent; the convention's own limit is 100,000."""


class Pings:
    """Pings around a `with` block; without a URL it does nothing.

    A block that ends without `succeeded` has failed. Raises `UsageError` for what is no http(s)
    URL.
    """

    def __init__(self, url: str | None, screen: Screen) -> None:
        self._parts = None if url is None else _checked(url)
        self._screen = screen
        self._ok = False
        self._text = ""

    def ends(self, *, ok: bool, text: str) -> None:
        """Note how the run ended, and what to tell about it."""
        self._ok, self._text = ok, text

    def __enter__(self) -> Self:
        self._ping("/start", "")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._ok = False
            self._text = explain(error) or type(error).__name__
        self._ping("" if self._ok else "/fail", self._text)

    def _ping(self, ending: str, text: str) -> None:
        if self._parts is None:
            return
        path = self._parts.path.rstrip("/") + ending
        url = urlunsplit(self._parts._replace(path=path, fragment=""))
        body = text.encode("utf-8", "replace")[:_MOST]
        for number in range(1, _TRIES + 1):
            try:
                request = urllib.request.Request(url, body, method="POST")  # noqa: S310  # http(s) only, see above
                with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310  # likewise
                    return
            except (OSError, ValueError, HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                if number == _TRIES:
                    # Not the URL itself: whoever has it can report success.
                    what = f"the ping{ending and f' {ending}'} to {self._parts.hostname}"
                    self._screen.note(f"{what} failed: {explain(error)}")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts
    except ValueError:  # a broken IPv6 address
        pass
    raise UsageError("--ping takes an http or https URL")
