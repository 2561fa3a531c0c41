"""List the servers of the account: a table, or plain lines.

Usage: vpsbackups servers [OPTIONS]

  vpsbackups servers --status active --location us-west
  vpsbackups servers | cut -d' ' -f1 | vpsbackups create --servers-from -
"""

from contextlib import aclosing
from typing import Annotated, Final, Literal, get_args

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit
from vpsbackups_async.cli.layouts import SERVERS
from vpsbackups_async.cli.options import DEFAULTS, Common, Flag
from vpsbackups_async.cli.rows import Form, form_of, open_writer
from vpsbackups_async.cli.selection import PAGE, PAGES_AHEAD, RAW, statuses_of
from vpsbackups_async.cli.session import Session
from vpsbackups_async.client import ServerStream

__all__ = ["run"]

_Status = Literal["active", "stopped", "suspended"]
_STATUSES: Final = get_args(_Status)


def run(
    *,
    status: Annotated[
        _Status | str | None,
        Parameter(
            metavar="WORD", show_choices=False, help="active, stopped, suspended or raw:TEXT"
        ),
    ] = None,
    location: Annotated[
        str | None, Parameter(metavar="NAME", help="of this data centre, us-west for example")
    ] = None,
    json: Annotated[Flag, Parameter(help="one JSON array")] = False,
    ndjson: Annotated[Flag, Parameter(help="a JSON object a line")] = False,
    csv: Annotated[Flag, Parameter(help="comma-separated, with a header")] = False,
    common: Common = DEFAULTS,
) -> int:
    """The exit code of the command, once it has ended."""
    form = form_of(json=json, ndjson=ndjson, csv=csv)
    if status is not None:
        [word] = statuses_of([status], _STATUSES)
        status = status.strip()[len(RAW) :] if word.startswith(RAW) else word
    with Session(common) as session:
        stream = session.client.servers(
            status=status, location=location, page_size=PAGE, prefetch=PAGES_AHEAD
        )
        return session.do(_list(session, stream, form))


async def _list(session: Session, stream: ServerStream, form: Form) -> Exit:
    writer = open_writer(form, session.screen, SERVERS)
    found = False
    async with aclosing(stream.pages()) as pages:
        async for page in pages:
            if page.items:
                found = True
                writer.rows(page.items)
    writer.end()
    if not found and session.screen.is_watched:
        session.screen.summary("no servers match")
    return Exit.FINE
