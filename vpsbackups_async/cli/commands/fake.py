"""Run a server to try things on, until Ctrl-C.

It listens on 127.0.0.1, keeps all in memory, and writes the two variables to
export in another shell.

Usage: vpsbackups fake [OPTIONS]

  vpsbackups fake --port 8080 --servers 500 --rate-limit 20
"""

import asyncio
import contextlib
import os
import sys
import time
from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter

from vpsbackups_async.cli.ends import Exit, UsageError
from vpsbackups_async.cli.numbers import NUMBER, WHOLE
from vpsbackups_async.cli.options import A_TIME, duration_of
from vpsbackups_async.cli.signals import run_in
from vpsbackups_async.testing import FakeVPS

__all__ = ["run"]


def run(
    *,
    port: Annotated[
        int, WHOLE, Parameter(("--port", "-p"), metavar="N", help="0, any free one")
    ] = 0,
    servers: Annotated[
        int, WHOLE, Parameter(metavar="N", help="with ids from 1; 25 if not given")
    ] = 25,
    backups: Annotated[int, WHOLE, Parameter(metavar="N", help="of each server at first; 3")] = 3,
    backup_seconds: Annotated[
        str, Parameter(metavar="TIME", help=f"how long a new one takes {A_TIME}; 20s")
    ] = "20s",
    page_size: Annotated[int, WHOLE, Parameter(metavar="N", help="backups a page; 20")] = 20,
    rate_limit: Annotated[
        float | None, NUMBER, Parameter(metavar="N", help="requests a second before it answers 429")
    ] = None,
) -> int:
    """The exit code of the command, once it has ended."""
    if not 0 <= port < 65_536:
        raise UsageError("--port is at most 65535")
    if min(servers, backups, page_size) < 0:
        raise UsageError("these numbers are zero or more")
    takes = duration_of("--backup-seconds", backup_seconds, least=timedelta(0), alone=True)
    server = FakeVPS(
        port=port,
        servers=servers,
        backups=backups,
        backup_seconds=takes.total_seconds(),
        page_size=page_size,
        max_page_size=max(100, page_size),
        rate_limit=rate_limit,
        clock=time.time,
    )
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner() as runner:
        run_in(runner, _serve(server, port))
    return Exit.FINE


async def _serve(server: FakeVPS, port: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise UsageError(f"cannot listen on port {port}: {why}") from error
        sys.stdout.write(f"export VPS_API_URL={server.url}\nexport VPS_API_TOKEN={server.token}\n")
        sys.stdout.flush()
        sys.stderr.write("Serving until Ctrl-C; say the two lines above in another shell.\n")
        await asyncio.get_running_loop().create_future()
