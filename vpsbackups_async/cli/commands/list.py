"""List backups: a table, or plain lines where it is piped.

Usage: vpsbackups list [OPTIONS]

  vpsbackups list --since 7d --status failed | cut -d' ' -f1  # ID:SERVER
  vpsbackups list --type manual --ndjson | jq .server.name
"""

import asyncio
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from vpsbackups_async.cli.ends import NothingToDo
from vpsbackups_async.cli.failures import Failures
from vpsbackups_async.cli.ids import server_ids, source_name
from vpsbackups_async.cli.layouts import BACKUPS
from vpsbackups_async.cli.numbers import WHOLE
from vpsbackups_async.cli.options import DEFAULTS, All, Common, Flag, check_all
from vpsbackups_async.cli.rows import Form, Writer, form_of, open_writer
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.selection import (
    PAGE,
    Best,
    Selection,
    Sort,
    Status,
    batches,
    moment_of,
    statuses_of,
)
from vpsbackups_async.cli.session import Session
from vpsbackups_async.errors import FleetError
from vpsbackups_async.models import Backup, BackupStatus

__all__ = ["run"]

_FLUSH_AFTER: Final = 0.1
"""Seconds that a row may be buffered."""


def run(
    *,
    server: Annotated[
        list[str] | None,
        Parameter(
            ("--server", "-s"), metavar="ID", negative=(), help="of this server; may be repeated"
        ),
    ] = None,
    servers_from: Annotated[
        str | None,
        Parameter(
            metavar="FILE", allow_leading_hyphen=True, help="of the servers named there; - is stdin"
        ),
    ] = None,
    all_servers: All = False,
    type: Annotated[
        Literal["manual", "automatic"] | None,
        Parameter(("--type", "-t"), help="manual or automatic"),
    ] = None,
    status: Annotated[
        list[Status | str] | None,
        Parameter(
            metavar="WORD",
            negative=(),
            show_choices=False,
            help="completed, in_progress, failed; repeatable",
        ),
    ] = None,
    since: Annotated[
        str | None,
        Parameter(
            metavar="WHEN", allow_leading_hyphen=True, help="made since 24h, 7d, or a date (UTC)"
        ),
    ] = None,
    sort: Annotated[
        Sort | str | None,
        Parameter(
            metavar="KEY",
            allow_leading_hyphen=True,
            show_choices=False,
            help="server; with --limit id, created, size, name, or -KEY",
        ),
    ] = None,
    limit: Annotated[
        int | None, WHOLE, Parameter(("--limit", "-n"), metavar="N", help="no more")
    ] = None,
    json: Annotated[Flag, Parameter(help="one JSON array")] = False,
    ndjson: Annotated[Flag, Parameter(help="a JSON object a line")] = False,
    csv: Annotated[Flag, Parameter(help="comma-separated, with a header")] = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    form = form_of(json=json, ndjson=ndjson, csv=csv)
    check_all(all_servers=all_servers, named=bool(server) or servers_from is not None)
    servers = server_ids(server or (), servers_from, may_be_none=True)
    selection = Selection(
        servers=servers,
        backup_type=type,
        statuses=statuses_of(status or (), tuple(BackupStatus)),
        since=moment_of(since),
        sort=sort,
        limit=limit,
    )
    selection.check()
    if servers_from is not None and not servers:
        open_writer(form, Screen(), BACKUPS).end()
        raise NothingToDo(f"{source_name(servers_from)} names no server: nothing to list")
    with Session(common) as session:
        return session.do(_list(session, selection, form))


async def _list(session: Session, selection: Selection, form: Form) -> int:
    failures = Failures(session.screen)
    writer = open_writer(form, session.screen, BACKUPS)
    output = _Output(writer)
    best = Best(selection)
    left = sys.maxsize if selection.limit is None else selection.limit
    display = session.display("Reading", shown=_goes_to_a_file())
    async with display, aclosing(batches(session.client, selection, display.update)) as found:
        try:
            async for batch in found:
                kept = [backup for backup in batch if selection.keeps(backup)]
                if selection.sorts:
                    best.add(kept)
                    continue
                output.add(kept[:left])
                left -= len(kept)
                if left <= 0:
                    break
        except FleetError as error:
            for failure in error.failures:
                failures.add(f"server {failure.key}", failure.error or error)
    output.add(best.sorted())
    output.flush()
    writer.end()
    if not (output.any or failures.count) and session.screen.is_watched:
        session.screen.summary("no backups match")
    return failures.close()


def _goes_to_a_file() -> bool:
    """Whether the rows go to a file; progress would disturb them on a terminal or in a pager."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:  # not a real file, in a test for example
        return False


class _Output:
    """Buffers rows: the first is written at once, the others with a page or after a moment."""

    def __init__(self, writer: Writer[Backup]) -> None:
        self._writer = writer
        self.any: bool = False
        """Whether there was a row at all."""
        self._rows: list[Backup] = []
        self._most = 1
        self._timer: asyncio.TimerHandle | None = None
        self._error: OSError | None = None

    def add(self, backups: Sequence[Backup]) -> None:
        """Write these soon. Raises the `OSError` of a write since the last call."""
        self._rows += backups
        self.any = self.any or bool(backups)
        if self._error is not None:
            raise self._error
        if len(self._rows) >= self._most:
            self.flush()
        elif self._rows and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_FLUSH_AFTER, self._flush_later)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rows:
            self._most = PAGE
            rows, self._rows = self._rows, []
            self._writer.rows(rows)

    def _flush_later(self) -> None:
        try:
            self.flush()
        except OSError as error:
            self._error = error
