"""Asking before a command does something that cannot be undone."""

import select
import sys
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.options import Flag

__all__ = ["Yes", "agreed", "check_asking"]

_STEP: Final = 0.25
"""Seconds."""

Yes = Annotated[Flag, Parameter(("--yes", "-y"), help="do not ask")]


def check_asking(*, yes: bool) -> None:
    """Raise `UsageError` if there is no `--yes` and no terminal to ask on."""
    if not yes and not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("nobody can be asked here: give --yes if it is meant")


def agreed(question: str) -> bool:
    """Ask, and return whether the answer is yes."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    # A signal just before a read that blocks is not handled until the read ends; the wait in steps
    # handles it. `select` takes only sockets on Windows.
    while sys.platform != "win32" and not select.select([sys.stdin], [], [], _STEP)[0]:
        pass
    return sys.stdin.readline().strip().casefold() in {"y", "yes"}
