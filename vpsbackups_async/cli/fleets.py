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
from vpsbackups_async.cli.text import safe

try:
    from vpsbackups_async.durable import DurableFleet, Limits, RunOutcome
except ImportError as _missing:
    raise UsageError(str(_missing)) from None

__all__ = ["Database", "Fleets", "outcome_line"]

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


def outcome_line(outcome: RunOutcome) -> str:
    """The server, its state and its backup, one word each, then what is to be said."""
    said = [outcome.detail or ""]
    if outcome.candidates:
        said.append(f"may be {', '.join(map(str, outcome.candidates))}")
    if outcome.twins:
        said.append(f"made twice: {', '.join(map(str, outcome.twins))}")
    if outcome.deleted:
        said.append(f"deleted {', '.join(map(str, outcome.deleted))}")
    text = safe("; ".join(filter(None, said)))
    backup = "-" if outcome.backup_id is None else str(outcome.backup_id)
    return f"{outcome.server_id:<10} {outcome.state:<10} {backup:<10} {text}".rstrip()
