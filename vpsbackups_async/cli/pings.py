"""Tells a monitor how a run goes, by the convention of healthchecks.io.

`URL/start` at the start, `URL` after success, `URL/fail` after anything else, with a line that says
why. What goes wrong with that is a note, and never breaks the run.
"""

from types import TracebackType
from typing import Self
from urllib.parse import SplitResult

from vpsbackups_async._ping import check_ping, ping
from vpsbackups_async.cli.ends import UsageError, explain
from vpsbackups_async.cli.screen import Screen

__all__ = ["Pings"]


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
        failure = ping(self._parts, ending, text)
        if failure is not None:
            # Not the URL itself: whoever has it can report success.
            what = f"the ping{ending and f' {ending}'} to {self._parts.hostname}"
            self._screen.note(f"{what} failed: {explain(failure)}")


def _checked(url: str) -> SplitResult:
    try:
        return check_ping(url)
    except ValueError as error:
        raise UsageError(str(error)) from None
