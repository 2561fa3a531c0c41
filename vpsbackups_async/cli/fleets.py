"""Durable runs for the commands below `run`: their database, and an event loop."""

import asyncio
import os
from collections.abc import Coroutine
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar

from cyclopts import Parameter

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.session import token_of, url_of
from vpsbackups_async.cli.signals import run_in

try:
    from vpsbackups_async.durable import DurableFleet, Limits
except ImportError as _missing:
    raise UsageError(str(_missing)) from None

__all__ = ["Database", "Fleets"]

T = TypeVar("T")

Database = Annotated[
    str | None,
    Parameter("--database", metavar="URL", help="sqlite:///FILE or postgresql://..."),
]
"""Where the runs are; else `VPSBACKUPS_DATABASE`, or a file in the user's state folder."""


class Fleets:
    """The runs of a database, and an event loop that a command enters as often as it needs.

    Only what `needs_token` asks the API.
    """

    def __init__(
        self,
        common: Common,
        database: str | None,
        limits: Limits = Limits(),
        *,
        needs_token: bool = False,
        account: str | None = None,
    ) -> None:
        self.screen: Screen = Screen(quiet=common.quiet)
        options: dict[str, Any] = {}
        if needs_token:
            options = {"token": token_of(common), "base_url": url_of(common)}
        self._runner = asyncio.Runner()
        url = database or os.environ.get("VPSBACKUPS_DATABASE") or None
        self.fleet: DurableFleet = DurableFleet(
            url, client_options=options, limits=limits, account=account
        )

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work; raises `KeyboardInterrupt` after Ctrl-C, SIGTERM and SIGHUP."""
        return run_in(self._runner, work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.do(self.fleet.close())
        finally:
            self._runner.close()
