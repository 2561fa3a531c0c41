"""`vpsbackups completion`."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from vpsbackups_async.cli.app import app
from vpsbackups_async.cli.ends import Exit

__all__ = ["completion"]


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], Parameter(metavar="SHELL", help="bash, zsh or fish")
    ],
    /,
) -> int:
    """The completion script for bash, zsh or fish, on standard output."""
    sys.stdout.write(app.generate_completion(shell=shell))
    return Exit.FINE
