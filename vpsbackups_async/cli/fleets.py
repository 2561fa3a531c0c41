"""Durable runs for the commands below `run`: their database, and an event loop."""

import os
import shlex
from functools import partial
from typing import Annotated, Any, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.session import log_on, token_of, url_of
from vpsbackups_async.cli.signals import OwnLoop
from vpsbackups_async.cli.text import safe

try:
    from vpsbackups_async.durable import DurableFleet, Limits, RunOutcome, RunProgress
    from vpsbackups_async.durable.api import WorkerClient
    from vpsbackups_async.durable.ownership import demand
    from vpsbackups_async.durable.store import Store
except ImportError as _missing:
    raise UsageError(str(_missing)) from None

__all__ = ["NOT_WHOLE", "Account", "Database", "Fleets", "counts", "outcome_line"]

NOT_WHOLE: Final = "not wholly submitted: if its submit was cut off, repeat it"
_STATES: Final = ("waiting", "running", "completed", "failed", "unknown", "cancelled")

Database = Annotated[
    str | None,
    Parameter("--database", metavar="URL", help="sqlite:///FILE or postgresql://..."),
]
"""Where the runs are; else `VPSBACKUPS_DATABASE`, or a file in the user's state folder."""


Account = Annotated[
    str | None,
    Parameter("--account", metavar="NAME", help="whose database, if the API does not tell"),
]
"""The name of the account, as the database is to know it; else `VPSBACKUPS_ACCOUNT`."""


class Fleets(OwnLoop):
    """The runs of a database, and an event loop that a command enters as often as it needs.

    Only what `needs_token` asks the API. A command that `makes` no run raises `UsageError` for a
    SQLite file that is not there, instead of making it.
    """

    def __init__(
        self,
        common: Common,
        database: str | None,
        limits: Limits = Limits(),
        *,
        needs_token: bool = False,
        makes: bool = False,
        account: str | None = None,
    ) -> None:
        self.screen: Screen = Screen(quiet=common.quiet)
        options: dict[str, Any] = {}
        if needs_token:
            options = {"token": token_of(common), "base_url": url_of(common)}
        super().__init__(log_on(self.screen, common))
        for option, value in (("--database", database), ("--account", account)):
            if value is not None and not value.strip():
                raise UsageError(f"{option} is empty")
        url = database or os.environ.get("VPSBACKUPS_DATABASE") or None
        account = account or os.environ.get("VPSBACKUPS_ACCOUNT") or None
        self._client = partial(WorkerClient, **options)
        self._account = account
        self.fleet: DurableFleet = DurableFleet(
            url, client_options=options, limits=limits, account=account
        )
        self.store: Store = self.fleet._store  # noqa: SLF001  # what is told is the commands' own
        self._database = file = self.fleet._database  # noqa: SLF001  # no method of it tells
        if file.is_sqlite and not makes and not file.path.exists():
            raise UsageError(
                f"there is no database {safe(self.fleet.name)}: run submit makes one, "
                "--database or VPSBACKUPS_DATABASE names another"
            )

    @property
    def has_password(self) -> bool:
        """Whether the URL of the database has a password, which is never shown."""
        return self._database.name != self._database.bare_name

    def named(self, database: str | None) -> str:
        """The option that names the database in a command to be pasted, if it was given.

        It comes after a space, and without the password of the database.
        """
        return "" if database is None else f" --database {shlex.quote(self._database.bare_name)}"

    async def own(self) -> None:
        """Make the database that of the token's account, as a worker does.

        Raises `ConfigurationError` for another account, and for one that nobody tells.
        """
        async with self._client() as client:
            await demand(self._database, client, self._account)

    async def _close(self) -> None:
        await self.fleet.close()


def counts(progress: RunProgress) -> str:
    """How many servers a run has, and how many are in which state, if any is."""
    states = [f"{count:,} {state}" for state in _STATES if (count := getattr(progress, state))]
    told = f"{', '.join(states) or 'no servers'}; {progress.total:,} in all"
    return told if progress.wholly_submitted else f"{told}, {NOT_WHOLE}"


def outcome_line(outcome: RunOutcome) -> str:
    """The server, its state and its backup, one word each, then what is to be said."""
    said = [outcome.detail or ""]
    if outcome.candidates:
        said.append(f"may be {', '.join(map(str, outcome.candidates))}")
    if outcome.twins:
        said.append(f"made twice: {', '.join(map(str, outcome.twins))}")
    if outcome.deleted:
        said.append(f"deleted {', '.join(map(str, outcome.deleted))}")
    if outcome.in_doubt:
        said.append(f"may have deleted {', '.join(map(str, outcome.in_doubt))}")
    text = safe("; ".join(filter(None, said)))
    backup = "-" if outcome.backup_id is None else str(outcome.backup_id)
    return f"{outcome.server_id:<10} {outcome.state:<10} {backup:<10} {text}".rstrip()
