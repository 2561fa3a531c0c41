"""One run of a command: its event loop, its client, its signals and its log."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vpsbackups_async._transport.secrets import Secret
from vpsbackups_async.cli.ends import UsageError, explain
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.outage import Outage
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.signals import OwnLoop
from vpsbackups_async.cli.text import counted, safe
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import VPSBackupsError
from vpsbackups_async.events import Event, OnEvent

__all__ = ["Session", "has_token", "log_on", "token_of", "token_source", "url_of", "url_source"]

T = TypeVar("T")

_LOGGER = logging.getLogger("vpsbackups_async")


def token_source(common: Common) -> str:
    """Where the token comes from."""
    if common.token_file is None:
        return "VPS_API_TOKEN"
    return f"the token file {str(common.token_file)!r}"


def url_source(common: Common) -> str:
    """Where the URL comes from."""
    if common.url is not None:
        return "--url"
    return "VPS_API_URL" if "VPS_API_URL" in os.environ else "the default"


def token_of(common: Common) -> str:
    """The token, wrapped so that no traceback shows it; raises `UsageError` if there is none."""
    if common.token_file is None:
        if "VPS_API_TOKEN" not in os.environ:
            raise UsageError("there is no token: set VPS_API_TOKEN, or give --token-file FILE")
        token = Secret.wrap(os.environ["VPS_API_TOKEN"])
    else:
        token = _read(common.token_file)
    if not token:
        raise UsageError(f"there is no token: {token_source(common)} is empty")
    return token


def has_token(common: Common) -> bool:
    """Whether a token is given, by a file or by the environment."""
    return common.token_file is not None or bool(os.environ.get("VPS_API_TOKEN"))


def _read(file: Path) -> Secret:
    try:
        return Secret.wrap(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"cannot read the token file {str(file)!r}: {why}") from None


def url_of(common: Common) -> str | None:
    """The URL that is given, None for the environment's; raises `UsageError` for an empty one.

    An empty one would send the token to the provider, where another server is meant.
    """
    if common.url is not None and not common.url.strip():
        raise UsageError("--url is empty")
    if common.url is None and not os.environ.get("VPS_API_URL", "_").strip():
        raise UsageError("VPS_API_URL is empty: set it, or unset it for https://admin.vps.org")
    return common.url


class _Log(logging.Handler):
    """Writes the log of the library to standard error, that of `retries` if asked for."""

    def __init__(self, screen: Screen, *, retries: bool) -> None:
        super().__init__()
        self._screen = screen
        self._retries = retries

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is about a late create, whose backup `Tracker` names."""
        event = getattr(record, "event", None)
        if event is None:
            if self._retries or not hasattr(record, "attempt"):
                self._screen.note(safe(_message(record)), "dim")
        elif event.backup is None and event.error is not None:
            self._screen.note(f"server {event.server_id}: {explain(event.error)}", "red")


def _message(record: logging.LogRecord) -> str:
    """The message, with errors in the words of the shell, as their own hints are about Python."""
    if not isinstance(record.args, tuple) or not record.args:
        return record.getMessage()
    return record.msg % tuple(
        explain(one) if isinstance(one, VPSBackupsError) else one for one in record.args
    )


@contextmanager
def log_on(screen: Screen, common: Common) -> Iterator[None]:
    """Write the log of the library to standard error in the block, in the words of the shell."""
    log, level = _Log(screen, retries=common.verbose or common.debug), _LOGGER.level
    _LOGGER.addHandler(log)
    _LOGGER.setLevel(logging.DEBUG if common.debug else logging.WARNING)
    try:
        yield
    finally:
        _LOGGER.removeHandler(log)
        _LOGGER.setLevel(level)


class Session(OwnLoop):
    """A client, and an event loop that a command enters as often as it needs; closes both."""

    def __init__(self, common: Common) -> None:
        self.screen: Screen = Screen(quiet=common.quiet)
        self._common = common
        self._began = time.monotonic()
        super().__init__(log_on(self.screen, common))
        self._outage = Outage()
        self._hearers: list[OnEvent] = [self._outage.on_event]
        self.client: BackupsClient = BackupsClient(
            token_of(common), base_url=url_of(common), on_event=self._on_event
        )

    def hear(self, hearer: OnEvent) -> None:
        """Call this with the client's events, those of `close()` included."""
        self._hearers.append(hearer)

    def _on_event(self, event: Event) -> None:
        for hearer in self._hearers:
            hearer(event)

    def display(self, what: str, *, shown: bool = True) -> Display:
        """A display of how far work with the client is; `what` names the work."""
        return Display(self.screen, what, lambda: self.client.stats, self._outage.text, shown=shown)

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began

    async def _close(self) -> None:
        await self.client.close()

        if self._common.verbose:
            self.screen.note(self._what_it_took())

    def _what_it_took(self) -> str:
        done = self.client.stats
        return (
            f"{counted(done.requests, 'request')}, {done.retries:,} of them repeated, "
            f"{done.rate_limited:,} refused with 429, {done.bytes_received:,} bytes received, "
            f"{self.elapsed:.1f} s"
        )
